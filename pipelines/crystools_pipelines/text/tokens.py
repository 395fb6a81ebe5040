"""Prompts to token ids of one length, and what is said of those that are longer."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from transformers import BatchEncoding, PreTrainedTokenizerBase

Tokens: TypeAlias = tuple[NDArray[np.int32], NDArray[np.int32]]
Tokenize: TypeAlias = Callable[..., BatchEncoding]
"""A model's own way: `(prompts, tokenizer, **how)`, with the tokenizer's options for padding and cutting."""

_NAMES = ("prompt", "negative_prompt")
_NO_LIMIT = 2**31 - 1


def tokens_of(
    tokenize: Tokenize, prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int
) -> Tokens:
    """Token ids and mask, int32 `[prompts, length]`; longer prompts are cut, as diffusers does."""
    how = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "np"}
    tokens = tokenize(prompts, tokenizer, **how)
    return tokens["input_ids"].astype(np.int32), tokens["attention_mask"].astype(np.int32)


def warnings_of(
    tokenize: Tokenize, prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, tokens: Tokens
) -> list[str]:
    """A line for each prompt (then the negative one) that `tokens` have not whole."""
    warnings = []
    for name, prompt, mask in zip(_NAMES, prompts, tokens[1], strict=False):
        if not mask.all():
            continue
        # With a limit, if none that counts: without one the tokenizer has a warning of its own.
        whole = tokenize([prompt], tokenizer, truncation=True, max_length=_NO_LIMIT)
        if (wanted := len(whole["input_ids"][0])) > mask.size:
            warnings.append(
                f"{name}: it comes to {wanted} tokens, of which the text encoder takes {mask.size}; "
                "the rest is left out: shorten it"
            )
    return warnings
