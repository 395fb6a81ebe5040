"""Prompts to embeddings: UMT5 with its own tokenizer, as diffusers' WanPipeline uses them."""

import html
import re
from collections.abc import Sequence
from typing import Any

import ftfy
import jax
import jax.numpy as jnp
from transformers import BatchEncoding, PreTrainedTokenizerBase, UMT5EncoderModel

from crystools_pipelines.interop.functional import call
from crystools_pipelines.weights.loading import State

MAX_TOKENS = 512


def clean_prompt(prompt: str) -> str:
    """Mends broken Unicode, resolves HTML entities (twice: they come doubly escaped), squeezes whitespace."""
    mended = html.unescape(html.unescape(ftfy.fix_text(prompt))).strip()
    return re.sub(r"\s+", " ", mended).strip()


def tokenize(prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, **how: Any) -> BatchEncoding:
    """The cleaned prompts' tokens, padded and cut as `how` says."""
    return tokenizer([clean_prompt(prompt) for prompt in prompts], **how)


def embed(encoder: UMT5EncoderModel, weights: State, ids: jax.Array, mask: jax.Array) -> jax.Array:
    """Embeddings `[prompts, 512, width]`, zero beyond each prompt's end."""
    hidden = call(encoder, weights, ids, mask).last_hidden_state
    return jnp.where(mask[..., None] > 0, hidden, 0)
