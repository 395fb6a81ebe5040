"""How Wan2.1 lies on the mesh: a pattern for every parameter. Axis names are in `parallel.mesh`.

Weights are `[out, in]`. A projection into heads or into the feed-forward's hidden width is split by its
outputs over `tensor`, the one out of it by its inputs: one reduction for each such pair.
"""

from jax.sharding import PartitionSpec as P

from crystools_pipelines.parallel.mesh import TENSOR
from crystools_pipelines.parallel.sharding import Rules

TRANSFORMER: Rules = (
    (r"patch_embedding\.(weight|bias)", P()),
    (r"condition_embedder\.time_proj\.weight", P(TENSOR, None)),
    (r"condition_embedder\.time_proj\.bias", P(TENSOR)),
    (r"condition_embedder\..*", P()),
    (r"blocks\.layer\.attn[12]\.to_[qkv]\.weight", P(TENSOR, None)),
    (r"blocks\.layer\.attn[12]\.to_[qkv]\.bias", P(TENSOR)),
    (r"blocks\.layer\.attn[12]\.norm_[qk]\.weight", P(TENSOR)),
    (r"blocks\.layer\.attn[12]\.to_out\.0\.weight", P(None, TENSOR)),
    (r"blocks\.layer\.ffn\.net\.0\.proj\.weight", P(TENSOR, None)),
    (r"blocks\.layer\.ffn\.net\.0\.proj\.bias", P(TENSOR)),
    (r"blocks\.layer\.ffn\.net\.2\.weight", P(None, TENSOR)),
    (r"blocks\.layer\.(attn[12]\.to_out\.0|ffn\.net\.2)\.bias", P()),
    (r"blocks\.layer\.norm2\.(weight|bias)", P()),
    (r"(blocks\.layer\.)?scale_shift_table", P()),
    (r"proj_out\.(weight|bias)", P()),
)

# Half a gigabyte: every device holds it whole, and the pixels are split instead (`pixels`).
VAE: Rules = ((r"(decoder|post_quant_conv)\..*", P()),)


def widths(transformer: dict[str, int], text_encoder: dict[str, int]) -> tuple[int, ...]:
    """The sizes, from the two configurations, that the rules above split over `tensor`."""
    return (
        transformer["num_attention_heads"],
        transformer["ffn_dim"],
        text_encoder["num_heads"],
        text_encoder["d_ff"],
        text_encoder["d_model"],
    )
