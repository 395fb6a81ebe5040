"""Prompts to embeddings: UMT5 with its own tokenizer, as diffusers' WanPipeline uses them."""

import html
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ftfy
import jax
import jax.numpy as jnp
import torch
from jax.sharding import Mesh
from transformers import BatchEncoding, PreTrainedTokenizerBase, UMT5Config, UMT5EncoderModel

from crystools_pipelines.interop.functional import call
from crystools_pipelines.interop.scan import ScannedLayers
from crystools_pipelines.parallel import layout
from crystools_pipelines.text import t5
from crystools_pipelines.weights.loading import State

MAX_TOKENS = 512


def build_text_encoder(folder: Path, mesh: Mesh) -> UMT5EncoderModel:
    """UMT5's encoder from the configuration in `folder`, layers scanned, on the meta device."""
    # Eager attention: the one that adds UMT5's relative position bias without further conditions.
    config = UMT5Config.from_pretrained(folder, attn_implementation="eager")
    with torch.device("meta"):
        encoder = UMT5EncoderModel(config).eval()
    at_work = partial(layout.at_work, mesh, t5.ENCODER, "encoder.block.layer.")
    encoder.encoder.block = ScannedLayers(encoder.encoder.block, weights=at_work)
    return encoder


def clean_prompt(prompt: str) -> str:
    """Mends broken Unicode, resolves HTML entities (twice: they come doubly escaped), squeezes whitespace."""
    mended = html.unescape(html.unescape(ftfy.fix_text(prompt))).strip()
    return re.sub(r"\s+", " ", mended).strip()


def tokenize(prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, **how: Any) -> BatchEncoding:
    """The cleaned prompts' tokens, padded and cut as `how` says."""
    return tokenizer([clean_prompt(prompt) for prompt in prompts], **how)


def encode(
    encoder: torch.nn.Module, weights: State, ids: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Embeddings `[prompts, 512, width]`, zero beyond each prompt's end, and whether all are finite."""
    hidden = call(encoder, weights, ids, mask).last_hidden_state
    embeddings = jnp.where(mask[..., None] > 0, hidden, 0)
    return embeddings, jnp.isfinite(embeddings).all()
