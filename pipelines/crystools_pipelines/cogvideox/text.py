"""Prompts to embeddings: T5 with its own tokenizer, as diffusers' CogVideoXPipeline uses them."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import BatchEncoding, PreTrainedTokenizerBase, T5Config, T5EncoderModel

MAX_TOKENS = 226


class TextEncoder(T5EncoderModel):  # type: ignore[misc]
    """T5's first layer owns the table of relative positions and hands what it makes of it to the others.

    For a scan all layers must be alike: here each makes the same of the same table.
    """

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        first, *others = (block.layer[0].SelfAttention for block in self.encoder.block)
        for attention in others:
            attention.has_relative_attention_bias = True
            attention.relative_attention_bias = first.relative_attention_bias

    def forward(self, ids: torch.Tensor, _mask: torch.Tensor) -> torch.Tensor:
        """Embeddings of token ids, padding included: the pipeline gives T5 no mask."""
        (hidden,) = self.encoder.block(self.shared(ids))
        return self.encoder.final_layer_norm(hidden)  # type: ignore[no-any-return]


def tokenize(prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, **how: Any) -> BatchEncoding:
    """The prompts' tokens, padded and cut as `how` says."""
    return tokenizer(list(prompts), **how)
