"""Flux.2 as the existing pack runs it: diffusers' transformer, its blocks one after the other.

Facts of its design: a mesh of tp=8; projections into heads, into the feed-forward and of embeddings and
modulations are split over `tp` by their outputs, those out of them by their inputs; nothing is asked of
activations. The fast kernel is for more than 20,000 tokens, so attention is plain XLA. The node and the
script that it derives from compile the same program; what makes the node slower is not on the chips.
Positions come as their tables here, which takes a few microseconds of work out of the program.
"""

from typing import Any

import jax
import jax.numpy as jnp
import torch
from diffusers import Flux2Transformer2DModel
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux2 import Flux2Attention, Flux2ParallelSelfAttention
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.peers.attention import plain_attention
from crystools_pipelines.interop.functional import call
from crystools_pipelines.parallel.sharding import Rules
from crystools_pipelines.weights.shapes import abstract_state

STACKS = ("num_layers", "num_single_layers")
MESH = {"tp": 8}

_RULES: Rules = (
    (r"transformer_blocks\.\d+\.attn\.(to_[qkv]|add_[qkv]_proj)\.weight", P("tp", None)),
    (r"transformer_blocks\.\d+\.attn\.(to_out\.0|to_add_out)\.weight", P(None, "tp")),
    (r"transformer_blocks\.\d+\.ff(_context)?\.linear_in\.weight", P("tp", None)),
    (r"transformer_blocks\.\d+\.ff(_context)?\.linear_out\.weight", P(None, "tp")),
    (r"single_transformer_blocks\.\d+\.attn\.to_qkv_mlp_proj\.weight", P("tp", None)),
    (r"single_transformer_blocks\.\d+\.attn\.to_out\.weight", P(None, "tp")),
    (r"(x_embedder|context_embedder|\w+_stream_modulation\w*\.linear)\.weight", P("tp", None)),
    (r"time_guidance_embed\.\w+\.linear_1\.weight", P("tp", None)),
    (r"time_guidance_embed\.\w+\.linear_2\.weight", P(None, "tp")),
    (r"proj_out\.weight", P(None, "tp")),
    (r".*", P()),
)
_TEXT_TOKENS = 512

Rotary = tuple[torch.Tensor, torch.Tensor]


def _two_streams(
    attn: Flux2Attention,
    hidden_states: torch.Tensor,
    encoder_hidden_states: torch.Tensor,
    attention_mask: None = None,
    image_rotary_emb: Rotary | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Takes the place of diffusers' Flux2AttnProcessor."""

    def heads(projection: torch.nn.Module, states: torch.Tensor) -> torch.Tensor:
        return projection(states).unflatten(-1, (-1, attn.head_dim))  # type: ignore[no-any-return]

    text, image = encoder_hidden_states, hidden_states
    queries = (attn.norm_added_q(heads(attn.add_q_proj, text)), attn.norm_q(heads(attn.to_q, image)))
    keys = (attn.norm_added_k(heads(attn.add_k_proj, text)), attn.norm_k(heads(attn.to_k, image)))
    values = (heads(attn.add_v_proj, text), heads(attn.to_v, image))
    query, key, value = (torch.cat(pair, dim=1) for pair in (queries, keys, values))
    output = _attend(query, key, value, image_rotary_emb)
    return attn.to_out[0](output[:, text.shape[1] :]), attn.to_add_out(output[:, : text.shape[1]])


def _one_stream(
    attn: Flux2ParallelSelfAttention,
    hidden_states: torch.Tensor,
    attention_mask: None = None,
    image_rotary_emb: Rotary | None = None,
) -> torch.Tensor:
    """Takes the place of diffusers' Flux2ParallelSelfAttnProcessor."""
    projected = attn.to_qkv_mlp_proj(hidden_states)
    heads, inner = projected.tensor_split([3 * attn.inner_dim], dim=-1)
    query, key, value = (each.unflatten(-1, (-1, attn.head_dim)) for each in heads.chunk(3, dim=-1))
    output = _attend(attn.norm_q(query), attn.norm_k(key), value, image_rotary_emb)
    return attn.to_out(torch.cat([output, attn.mlp_act_fn(inner)], dim=-1))  # type: ignore[no-any-return]


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rotary: Rotary | None
) -> torch.Tensor:
    query, key = (apply_rotary_emb(tensor, rotary, sequence_dim=1) for tensor in (query, key))
    output = plain_attention(*(tensor.transpose(1, 2) for tensor in (query, key, value)))
    return output.transpose(1, 2).flatten(2, 3)


class _Tables(torch.nn.Module):
    """Takes the place of Flux2PosEmbed: positions come as their tables, cosines and sines side by side."""

    def forward(self, tables: torch.Tensor) -> Rotary:
        cosines, sines = tables.chunk(2, dim=-1)
        return cosines, sines


def trace(configuration: dict[str, Any], mesh: Mesh, *, height: int, width: int) -> jax.stages.Traced:
    """One forward of the transformer with this configuration."""
    with torch.device("meta"):
        model = Flux2Transformer2DModel.from_config(configuration).eval()
    model.pos_embed = _Tables()
    for block in model.transformer_blocks:
        block.attn.processor = _two_streams
    for block in model.single_transformer_blocks:
        block.attn.processor = _one_stream
    config, whole = model.config, NamedSharding(mesh, P())

    def of(shape: tuple[int, ...], dtype: Any = jnp.bfloat16) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=whole)

    image_tokens = (height // 16) * (width // 16)
    arguments = {
        "hidden_states": of((1, image_tokens, config.in_channels)),
        "encoder_hidden_states": of((1, _TEXT_TOKENS, config.joint_attention_dim)),
        "timestep": of((1,)),
        "guidance": of((1,), jnp.float32),
        "img_ids": of((image_tokens, 2 * config.attention_head_dim), jnp.float32),
        "txt_ids": of((_TEXT_TOKENS, 2 * config.attention_head_dim), jnp.float32),
    }

    def forward(weights: Any, arguments: dict[str, jax.Array]) -> Any:
        return call(model, weights, **arguments, return_dict=False)[0]

    return jax.jit(forward).trace(abstract_state(model, mesh, _RULES, "bfloat16"), arguments)
