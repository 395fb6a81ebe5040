"""Prompts to embeddings: T5 with its own tokenizer, as diffusers' CogVideoXPipeline uses them."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import torch
from jax.sharding import Mesh
from transformers import BatchEncoding, PreTrainedTokenizerBase, T5Config, T5EncoderModel

from crystools_pipelines.interop.functional import call
from crystools_pipelines.interop.scan import ScannedLayers
from crystools_pipelines.parallel import layout
from crystools_pipelines.text import t5
from crystools_pipelines.weights.loading import State

MAX_TOKENS = 226


class TextEncoder(torch.nn.Module):
    """The parts of T5EncoderModel under the names that they have there, layers scanned.

    T5's first layer owns the table of relative positions and hands what it makes of it to the others. For a
    scan all layers must be alike: here each makes the same of the same table.
    """

    def __init__(self, model: T5EncoderModel, mesh: Mesh) -> None:
        super().__init__()
        self.shared = model.shared
        self.encoder = model.encoder
        blocks = model.encoder.block
        owner = blocks[0].layer[0].SelfAttention
        for block in blocks[1:]:
            attention = block.layer[0].SelfAttention
            attention.has_relative_attention_bias = True
            attention.relative_attention_bias = owner.relative_attention_bias
        at_work = partial(layout.at_work, mesh, t5.ENCODER, "encoder.block.layer.")
        self.encoder.block = ScannedLayers(blocks, weights=at_work)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings of token ids, padding included: the pipeline gives T5 no mask."""
        (hidden,) = self.encoder.block(self.shared(ids))
        return self.encoder.final_layer_norm(hidden)  # type: ignore[no-any-return]


def build_text_encoder(folder: Path, mesh: Mesh) -> TextEncoder:
    """T5's encoder from the configuration in `folder`, on the meta device."""
    # Eager attention: the one that adds T5's relative position bias without further conditions.
    config = T5Config.from_pretrained(folder, attn_implementation="eager")
    with torch.device("meta"):
        return TextEncoder(T5EncoderModel(config).eval(), mesh)


def tokenize(prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, **how: Any) -> BatchEncoding:
    """The prompts' tokens, padded and cut as `how` says."""
    return tokenizer(list(prompts), **how)


def encode(encoder: TextEncoder, weights: State, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Embeddings `[prompts, 226, width]` and whether all are finite."""
    embeddings = call(encoder, weights, ids)
    return embeddings, jnp.isfinite(embeddings).all()
