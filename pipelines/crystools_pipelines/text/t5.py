"""The encoders of T5's family, of two models: how their weights lie on the mesh, and what is left over."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from jax.sharding import PartitionSpec as P

from crystools_pipelines.parallel.mesh import TENSOR
from crystools_pipelines.parallel.sharding import Rules
from crystools_pipelines.weights.part import Part

Module = TypeVar("Module", bound=torch.nn.Module)

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


def encoder(build: Callable[[Path], Module]) -> Part[Module]:
    """The text encoder that `build` makes."""
    return Part("text_encoder", build, ENCODER, _LEFTOVERS, tokenized=True)
