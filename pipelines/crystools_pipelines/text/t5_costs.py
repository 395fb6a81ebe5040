"""FLOPs and moved bytes of T5's encoder and UMT5's. A `config` is the mapping in its `config.json`.

They differ in `position_tables`: how many tables of relative positions there are.
"""

from collections.abc import Mapping
from typing import Any

from crystools_pipelines.costs import Cost, attention, matmul

Config = Mapping[str, Any]


def encoder(config: Config, batch: int, tokens: int, *, position_tables: int) -> Cost:
    """One forward on `[batch, tokens]`, padding included.

    Of the vocabulary it moves only the tokens' own rows; then all weights once, the hidden states of two
    sublayers a layer with their keys and values, and the embeddings out.
    """
    model, heads, layers = config["d_model"], config["num_heads"] * config["d_kv"], config["num_layers"]
    products = 4 * matmul(tokens, model, heads) + attention(tokens, tokens, heads)
    feed_forward = 3 if config["feed_forward_proj"].startswith("gated") else 2
    parameters = 4 * model * heads + feed_forward * model * config["d_ff"] + 2 * model  # with their norms
    tables = position_tables * config["relative_attention_num_buckets"] * config["num_heads"]
    return Cost(
        flops=batch * layers * (products + feed_forward * matmul(tokens, model, config["d_ff"])),
        parameters=layers * parameters + model + tables,
        activations=batch * tokens * (model + layers * (2 * 2 * model + 2 * 2 * heads) + model),
    )
