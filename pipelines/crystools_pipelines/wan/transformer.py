"""The denoiser: diffusers' WanTransformer3DModel with our attention and scanned blocks, and its output."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttention, WanRotaryPosEmbed
from jax.sharding import Mesh

from crystools_pipelines.interop.functional import as_jax, as_torch, call
from crystools_pipelines.interop.scan import ScannedLayers
from crystools_pipelines.kernels.attention import Heads, attention, cross_attention
from crystools_pipelines.kernels.rotary import Norm, rotated
from crystools_pipelines.parallel import layout
from crystools_pipelines.runtime.denoising import on_branches
from crystools_pipelines.wan import sharding
from crystools_pipelines.weights.loading import State


class _Attention:
    """Takes the place of diffusers' WanAttnProcessor: attention over the mesh, no write in place."""

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
        query, key, value = as_jax((attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source)))
        head_dim = query.shape[2] // attn.heads
        tables, tokens = None, query.shape[1]
        if rotary_emb is not None:
            tables = tuple(table.reshape(-1, head_dim) for table in as_jax(rotary_emb))
            tokens = tables[0].shape[0]
        query, key = (
            rotated(each, *_norm(norm), tables, self._mesh, head_dim)
            for each, norm in ((query, attn.norm_q), (key, attn.norm_k))
        )
        if encoder_hidden_states is None:
            output = attention(Heads(query, key, value), self._mesh, head_dim, tokens)
        else:
            output = cross_attention(query, key, value, self._mesh, head_dim)
        return attn.to_out[0](as_torch(output))  # type: ignore[no-any-return]


def _norm(norm: torch.nn.RMSNorm) -> tuple[jax.Array, None, Norm]:
    return as_jax(norm.weight), None, Norm("all heads", norm.eps or torch.finfo(torch.float32).eps)


def build_transformer(folder: Path, mesh: Mesh) -> WanTransformer3DModel:
    """The transformer that `folder` configures; parameters on the meta device, rotary tables real."""
    config = WanTransformer3DModel.load_config(folder)
    with torch.device("meta"):
        model = WanTransformer3DModel.from_config(config).eval()
    model.rope = WanRotaryPosEmbed(
        model.config.attention_head_dim, model.config.patch_size, model.config.rope_max_seq_len
    )
    for block in model.blocks:
        block.attn1.processor = block.attn2.processor = _Attention(mesh)
    model.blocks = ScannedLayers(
        model.blocks,
        mesh,
        weights=partial(layout.at_work, mesh, sharding.TRANSFORMER, "blocks.layer."),
    )
    return model


def predict(
    model: WanTransformer3DModel,
    mesh: Mesh,
    dtype: str,
    weights: State,
    sample: jax.Array,
    timestep: jax.Array,
    _guidance: jax.Array,
    embeddings: jax.Array,
    condition: jax.Array | None,
) -> jax.Array:
    """The outputs for `sample`, one for each guidance branch.

    `embeddings` are `[branches, tokens, width]`, the prompt's and, if guided, the negative prompt's; a
    `condition` `[1, channels, frames, height, width]` follows the latents' channels.
    """
    if condition is not None:
        sample = jnp.concatenate([sample, condition], axis=1)
    sample, timestep = on_branches(mesh, dtype, embeddings.shape[0], sample, timestep)
    (outputs,) = call(model, weights, sample, timestep, embeddings, return_dict=False)
    return outputs  # type: ignore[no-any-return]
