"""What T5's encoder and UMT5's compute and move. A `config` is the mapping in the component's `config.json`.

They differ in `position_tables`: how many tables of relative positions there are.
"""

from collections.abc import Mapping
from typing import Any

from crystools_pipelines.costs import attention, matmul

Config = Mapping[str, Any]


def encoder_flops(config: Config, batch: int, tokens: int) -> float:
    """FLOPs on `[batch, tokens]`, padding included."""
    model, heads = config["d_model"], _heads_width(config)
    products = 4 * matmul(tokens, model, heads) + attention(tokens, tokens, heads)
    feed_forward = _feed_forward_products(config) * matmul(tokens, model, config["d_ff"])
    return float(batch * config["num_layers"] * (products + feed_forward))


def encoder_bytes(
    config: Config, batch: int, tokens: int, bytes_per_parameter: int, *, position_tables: int
) -> float:
    """Bytes that one forward must move to or from HBM, as in `costs.py`.

    Of the vocabulary only the tokens' own rows; then all weights once, the hidden states of two sublayers a
    layer with their keys and values, and the embeddings out.
    """
    model, layers = config["d_model"], config["num_layers"]
    projections = 4 * model * _heads_width(config)
    feed_forward = _feed_forward_products(config) * model * config["d_ff"]
    weights = layers * (projections + feed_forward + 2 * model) + model  # with their norms
    weights += position_tables * config["relative_attention_num_buckets"] * config["num_heads"]
    layer = 2 * 2 * model + 2 * 2 * _heads_width(config)
    activations = batch * tokens * (model + layers * layer + model)
    return float((weights + activations) * bytes_per_parameter)


def _heads_width(config: Config) -> int:
    return int(config["num_heads"] * config["d_kv"])


def _feed_forward_products(config: Config) -> int:
    return 3 if config["feed_forward_proj"].startswith("gated") else 2
