"""How CogVideoX lies on the mesh: a pattern for every parameter. Axis names are in `parallel.mesh`.

Weights are `[out, in]`. A projection into heads or into the feed-forward's hidden width is split by its
outputs over `tensor`, the one out of it by its inputs: one reduction for each such pair. The modulations
make up a seventh of the model: they are split by their inputs, and what is reduced is one vector.
"""

from typing import Any

from jax.sharding import PartitionSpec as P

from crystools_pipelines.parallel.mesh import TENSOR
from crystools_pipelines.parallel.sharding import Rules

_BLOCK = r"transformer_blocks\.layer\."

TRANSFORMER: Rules = (
    (r"patch_embed\..*", P()),
    (r"time_embedding\..*", P()),
    (_BLOCK + r"norm[12]\.linear\.weight", P(None, TENSOR)),
    (_BLOCK + r"norm[12]\.(linear\.bias|norm\.(weight|bias))", P()),
    (_BLOCK + r"attn1\.to_[qkv]\.weight", P(TENSOR, None)),
    (_BLOCK + r"attn1\.to_[qkv]\.bias", P(TENSOR)),
    (_BLOCK + r"attn1\.norm_[qk]\.(weight|bias)", P()),
    (_BLOCK + r"attn1\.to_out\.0\.weight", P(None, TENSOR)),
    (_BLOCK + r"ff\.net\.0\.proj\.weight", P(TENSOR, None)),
    (_BLOCK + r"ff\.net\.0\.proj\.bias", P(TENSOR)),
    (_BLOCK + r"ff\.net\.2\.weight", P(None, TENSOR)),
    (_BLOCK + r"(attn1\.to_out\.0|ff\.net\.2)\.bias", P()),
    (r"(norm_final|norm_out|proj_out)\..*", P()),
)

# Half a gigabyte, of which each device keeps a share. At work it holds all of it: then the pixels are split.
VAE: Rules = (
    (r"decoder\..*\.conv[12]\.conv\.weight", P(TENSOR)),
    (r"decoder\..*", P()),
)


def widths(transformer: dict[str, Any], text_encoder: dict[str, Any], vae: dict[str, Any]) -> tuple[int, ...]:
    """The sizes, from the configurations, that the rules above split over `tensor`.

    The feed-forward's is a multiple of the heads.
    """
    return (
        transformer["num_attention_heads"],
        transformer["time_embed_dim"],
        text_encoder["num_heads"],
        text_encoder["d_ff"],
        text_encoder["d_model"],
        *vae["block_out_channels"],
    )
