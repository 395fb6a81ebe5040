"""Wan2.1 as the existing pack runs it: diffusers' transformer, its blocks one after the other.

Facts of its design: a mesh of dp=2 (the guidance branches) by tp=4; projections into heads and into the
feed-forward are split over `tp` by their outputs, those out of them by their inputs, all else is whole on
every chip; latents and text are asked to be split over `dp` and nothing else is asked outside of attention.
Self-attention by the kernel, attention to the text in plain XLA. Guidance and solver are programs of their
own, small ones, and not counted.
"""

from typing import Any

import jax
import jax.numpy as jnp
import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttention, WanRotaryPosEmbed
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.peers.attention import flash_attention, plain_attention, split_by_tokens, without_mean
from crystools_pipelines.interop.functional import as_jax, as_torch, call
from crystools_pipelines.parallel.sharding import Rules
from crystools_pipelines.weights.shapes import abstract_state

STACKS = ("num_layers",)
MESH = {"dp": 2, "tp": 4}

_RULES: Rules = (
    (r"blocks\.\d+\.attn[12]\.to_[qkv]\.(weight|bias)", P("tp")),
    (r"blocks\.\d+\.attn[12]\.to_out\.0\.weight", P(None, "tp")),
    (r"blocks\.\d+\.ffn\.net\.0\.proj\.(weight|bias)", P("tp")),
    (r"blocks\.\d+\.ffn\.net\.2\.weight", P(None, "tp")),
    (r"condition_embedder\.(time|text)_embedder\.linear_1\.(weight|bias)", P("tp")),
    (r"condition_embedder\.(time|text)_embedder\.linear_2\.weight", P(None, "tp")),
    (r".*", P()),
)
_TEXT_TOKENS = 512


class _Attention:
    """Takes the place of diffusers' WanAttnProcessor."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        key = attn.norm_k(attn.to_k(source)).unflatten(2, (attn.heads, -1))
        value = attn.to_v(source).unflatten(2, (attn.heads, -1))
        if rotary_emb is not None:
            query, key = _rotate(query, *rotary_emb), _rotate(key, *rotary_emb)
        heads_first = [tensor.transpose(1, 2) for tensor in (query, key, value)]
        if encoder_hidden_states is None:
            output = as_torch(self._over_the_video(*as_jax(heads_first)))
        else:
            output = plain_attention(*heads_first)
        return attn.to_out[0](output.transpose(1, 2).flatten(2, 3))  # type: ignore[no-any-return]

    def _over_the_video(self, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        query, key, value = jax.lax.with_sharding_constraint(
            (query, without_mean(key), value), split_by_tokens(self._mesh)
        )
        return flash_attention(query, key, value, self._mesh)


def _rotate(tensor: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    first, second = tensor.unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = cosines[..., 0::2], sines[..., 1::2]
    pairs = torch.stack((first * cosine - second * sine, first * sine + second * cosine), dim=-1)
    return pairs.flatten(-2).to(tensor.dtype)


def trace(
    configuration: dict[str, Any], mesh: Mesh, *, height: int, width: int, frames: int
) -> jax.stages.Traced:
    """One guided forward of the transformer with this configuration."""
    with torch.device("meta"):
        model = WanTransformer3DModel.from_config(configuration).eval()
    config = model.config
    model.rope = WanRotaryPosEmbed(config.attention_head_dim, config.patch_size, config.rope_max_seq_len)
    for block in model.blocks:
        block.attn1.processor = block.attn2.processor = _Attention(mesh)
    by_branch = NamedSharding(mesh, P("dp"))

    def forward(weights: Any, sample: jax.Array, timestep: jax.Array, text: jax.Array) -> jax.Array:
        sample, text = jax.lax.with_sharding_constraint((sample, text), by_branch)
        output: jax.Array = call(model, weights, sample, timestep, text, return_dict=False)[0]
        return output

    whole = NamedSharding(mesh, P())
    latents = (2, config.in_channels, (frames - 1) // 4 + 1, height // 8, width // 8)
    arguments = (
        jax.ShapeDtypeStruct(latents, jnp.bfloat16, sharding=whole),
        jax.ShapeDtypeStruct((2,), jnp.float32, sharding=whole),
        jax.ShapeDtypeStruct((2, _TEXT_TOKENS, config.text_dim), jnp.bfloat16, sharding=whole),
    )
    return jax.jit(forward).trace(abstract_state(model, mesh, _RULES, "bfloat16"), *arguments)
