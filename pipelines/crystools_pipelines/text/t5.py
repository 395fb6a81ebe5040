"""The encoders of T5's family: how they are built, how their weights lie on the mesh, what is left over."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from crystools_pipelines.interop.scan import ScannedLayers
from crystools_pipelines.parallel import layout
from crystools_pipelines.parallel.mesh import TENSOR
from crystools_pipelines.parallel.sharding import Rules
from crystools_pipelines.weights.part import Part

ENCODER: Rules = (
    (r"shared\.weight", P(None, TENSOR)),
    (r".*\.SelfAttention\.[qkv]\.weight", P(TENSOR, None)),
    (r".*\.SelfAttention\.o\.weight", P(None, TENSOR)),
    (r".*\.relative_attention_bias\.weight", P(None, TENSOR)),
    (r".*\.DenseReluDense\.wi(_[01])?\.weight", P(TENSOR, None)),
    (r".*\.DenseReluDense\.wo\.weight", P(None, TENSOR)),
    (r".*layer_norm\.weight", P()),
)

# Of a checkpoint that has the decoder too.
_LEFTOVERS = (r"decoder\..*", r"lm_head\.weight")


def encoder(model_class: type[torch.nn.Module], mesh: Mesh) -> Part[Any]:
    """The text encoder of this class of transformers', its layers scanned."""
    build = partial(_build, model_class, mesh=mesh)
    return Part("text_encoder", build, ENCODER, _LEFTOVERS, tokenized=True)


def _build(model_class: Any, folder: Path, *, mesh: Mesh) -> torch.nn.Module:
    # Eager attention: the one that adds the relative position bias without further conditions.
    config = model_class.config_class.from_pretrained(folder, attn_implementation="eager")
    with torch.device("meta"):
        model: Any = model_class(config).eval()
    at_work = partial(layout.at_work, mesh, ENCODER, "encoder.block.layer.")
    model.encoder.block = ScannedLayers(model.encoder.block, weights=at_work)
    return model  # type: ignore[no-any-return]
