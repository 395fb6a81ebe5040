"""How FLUX.2 lies on the mesh: a pattern for every parameter. Axis names are in `parallel.mesh`.

Weights are `[out, in]`, folded ones as in `interop.folded`. A projection into heads or into the hidden width
of the feed-forward is split by its outputs over `tensor`, the one out of it by its inputs: one reduction for
each such pair. The projections of embeddings and modulations are split so that no device holds them whole,
those of modulations by their inputs: split by outputs, each layer would gather what it takes of them.
"""

from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from crystools_pipelines.parallel.mesh import TENSOR
from crystools_pipelines.parallel.sharding import Rules

TEXT_ENCODER: Rules = (
    (r".*\.embed_tokens\.weight", P(None, TENSOR)),
    (r".*\.self_attn\.[qkv]_proj\.weight", P(TENSOR, None)),
    (r".*\.self_attn\.o_proj\.weight", P(None, TENSOR)),
    (r".*\.mlp\.(gate|up)_proj\.weight", P(TENSOR, None)),
    (r".*\.mlp\.down_proj\.weight", P(None, TENSOR)),
    (r".*\.(input|post_attention)_layernorm\.weight", P()),
)

_DOUBLE, _SINGLE = r"transformer_blocks\.layer\.", r"single_transformer_blocks\.layer\."

TRANSFORMER: Rules = (
    (r"(x_embedder|proj_out)\.weight", P()),
    (r"context_embedder\.weight", P(TENSOR, None)),
    (r"time_guidance_embed\.\w+\.linear_1\.weight", P(TENSOR, None)),
    (r"time_guidance_embed\.\w+\.linear_2\.weight", P(None, TENSOR)),
    (r"\w+_stream_modulation\w*\.linear\.weight", P(None, TENSOR)),
    (r"norm_out\.linear\.weight", P(None, TENSOR)),
    (_DOUBLE + r"attn\.(to_[qkv]|add_[qkv]_proj)\.weight", P(TENSOR, None)),
    (_DOUBLE + r"attn\.(to_out\.0|to_add_out)\.weight", P(None, TENSOR)),
    (_DOUBLE + r"ff(_context)?\.linear_in\.weight", P(None, TENSOR, None)),
    (_DOUBLE + r"ff(_context)?\.linear_out\.weight", P(None, None, TENSOR)),
    (_SINGLE + r"attn\.to_qkv_mlp_proj\.weight", P(None, TENSOR, None)),
    (_SINGLE + r"attn\.to_out\.weight", P(None, None, TENSOR)),
    (r".*\.attn\.norm_(added_)?[qk]\.weight", P()),  # one head's width
)

# A fifth of a gigabyte: every device holds it whole, and the pixels are split instead (`pixels`).
VAE: Rules = ((r"(decoder|post_quant_conv|bn)\..*", P()),)


def widths(transformer: Mapping[str, Any], text: Mapping[str, Any]) -> tuple[int, ...]:
    """The sizes, from the configurations of transformer and language model, that the rules above split."""
    return (
        transformer["num_attention_heads"],
        text["num_attention_heads"],
        text["num_key_value_heads"],
        text["intermediate_size"],
        text["hidden_size"],
    )


def one_head(mesh: Mesh) -> Mesh:
    """A mesh of these devices for an attention with a single head: all of them share its queries."""
    return Mesh(mesh.devices.reshape(1, -1, 1), mesh.axis_names)
