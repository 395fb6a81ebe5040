"""The denoiser: diffusers' Flux2Transformer2DModel with our attention and scanned blocks, and its output."""

from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np
import torch
from diffusers import Flux2Transformer2DModel
from diffusers.models.transformers.transformer_flux2 import (
    Flux2Attention,
    Flux2ParallelSelfAttention,
    Flux2PosEmbed,
)
from jax.sharding import Mesh
from numpy.typing import NDArray

from crystools_pipelines.errors import CheckpointError
from crystools_pipelines.flux2.text import MAX_TOKENS
from crystools_pipelines.interop.folded import FoldedInputs, FoldedOutputs
from crystools_pipelines.interop.functional import as_jax, as_torch, call
from crystools_pipelines.interop.scan import ScannedLayers
from crystools_pipelines.kernels.attention import Heads, attention, joint_attention
from crystools_pipelines.kernels.rotary import Norm, Tables, rotated
from crystools_pipelines.weights.loading import State

Rotary: TypeAlias = tuple[torch.Tensor, torch.Tensor]


class _DoubleAttention:
    """Takes the place of Flux2AttnProcessor: text and image attend to both, each with its own weights.

    The tables are those of `text_tokens` of text, then of the image; more tokens of either are padding.
    """

    def __init__(self, mesh: Mesh, text_tokens: int) -> None:
        self._mesh = mesh
        self._text_tokens = text_tokens

    def __call__(
        self,
        attn: Flux2Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: None,
        image_rotary_emb: Rotary,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        tables = as_jax(image_rotary_emb)
        of_text = tuple(table[: self._text_tokens] for table in tables)
        of_image = tuple(table[self._text_tokens :] for table in tables)
        text = Heads(
            _turned(attn.add_q_proj(encoder_hidden_states), attn.norm_added_q, of_text, self._mesh),
            _turned(attn.add_k_proj(encoder_hidden_states), attn.norm_added_k, of_text, self._mesh),
            as_jax(attn.add_v_proj(encoder_hidden_states)),
        )
        image = Heads(
            _turned(attn.to_q(hidden_states), attn.norm_q, of_image, self._mesh),
            _turned(attn.to_k(hidden_states), attn.norm_k, of_image, self._mesh),
            as_jax(attn.to_v(hidden_states)),
        )
        tokens, head_dim = of_image[0].shape
        outputs = joint_attention(image, text, self._mesh, head_dim, tokens, self._text_tokens)
        of_image, of_text = as_torch(outputs)
        return attn.to_out[0](of_image), attn.to_add_out(of_text)


class _SingleAttention:
    """Takes the place of Flux2ParallelSelfAttnProcessor: attention and feed-forward side by side.

    Tokens that the tables have no row for are padding.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def __call__(
        self,
        attn: Flux2ParallelSelfAttention,
        hidden_states: torch.Tensor,
        attention_mask: None,
        image_rotary_emb: Rotary,
    ) -> torch.Tensor:
        projected = attn.to_qkv_mlp_proj(hidden_states)
        query, key, value = projected[..., :3, :].unbind(2)
        tables = as_jax(image_rotary_emb)
        heads = Heads(
            _turned(query, attn.norm_q, tables, self._mesh),
            _turned(key, attn.norm_k, tables, self._mesh),
            as_jax(value),
        )
        tokens, head_dim = tables[0].shape
        output = as_torch(attention(heads, self._mesh, head_dim, tokens))
        inner = attn.mlp_act_fn(projected[..., 3:, :])
        return attn.to_out(torch.cat([output.unsqueeze(2), inner], dim=2))  # type: ignore[no-any-return]


def _turned(projected: torch.Tensor, norm: torch.nn.RMSNorm, tables: Tables, mesh: Mesh) -> jax.Array:
    weight = as_jax(norm.weight)
    assert norm.eps is not None
    return rotated(as_jax(projected), weight, None, Norm("head", norm.eps), tables, mesh, weight.shape[0])


class _SwiGLU(torch.nn.Module):
    """Takes the place of Flux2SwiGLU: the halves are those of the blocks, `[..., blocks, width]`."""

    def forward(self, blocks: torch.Tensor) -> torch.Tensor:
        gate, up = blocks.chunk(2, dim=-2)
        return torch.nn.functional.silu(gate) * up


class _Tables(torch.nn.Module):
    """Takes the place of Flux2PosEmbed, which counts in float64: positions come as its tables already."""

    def forward(self, tables: torch.Tensor) -> Rotary:
        cosines, sines = tables.chunk(2, dim=-1)
        return cosines, sines


def build_transformer(folder: Path, mesh: Mesh) -> Flux2Transformer2DModel:
    """The transformer from the configuration in `folder`, on the meta device.

    Raises CheckpointError where the feed-forward is not a whole number of times as wide as the model.
    """
    config = Flux2Transformer2DModel.load_config(folder)
    ratio = int(config["mlp_ratio"])
    if ratio != config["mlp_ratio"]:
        raise CheckpointError(f"{folder} has an mlp_ratio of {config['mlp_ratio']}; only whole ones are run")
    with torch.device("meta"):
        model = Flux2Transformer2DModel.from_config(config).eval()
    model.pos_embed = _Tables()
    for block in model.transformer_blocks:
        block.attn.processor = _DoubleAttention(mesh, MAX_TOKENS)
        for feed_forward in (block.ff, block.ff_context):
            feed_forward.linear_in = FoldedOutputs(feed_forward.linear_in, 2)
            feed_forward.act_fn = _SwiGLU()
            feed_forward.linear_out = FoldedInputs(feed_forward.linear_out, 1)
    for block in model.single_transformer_blocks:
        attn = block.attn
        attn.processor, attn.mlp_act_fn = _SingleAttention(mesh), _SwiGLU()
        attn.to_qkv_mlp_proj = FoldedOutputs(attn.to_qkv_mlp_proj, 3 + 2 * ratio)
        attn.to_out = FoldedInputs(attn.to_out, 1 + ratio)
    model.transformer_blocks = ScannedLayers(
        model.transformer_blocks, mesh, carries=("encoder_hidden_states", "hidden_states")
    )
    model.single_transformer_blocks = ScannedLayers(
        model.single_transformer_blocks,
        mesh,
        carries=("hidden_states",),
        main_tokens=slice(MAX_TOKENS, None),  # the text comes first
    )
    return model


def rotary_tables(
    config: dict[str, Any], grid: tuple[int, int], text_tokens: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosines and sines side by side, `[tokens, 2 * head_dim]`, of the image's tokens and of the text's.

    The four axes are time, row, column and place in the text.
    """
    embed = Flux2PosEmbed(theta=config["rope_theta"], axes_dim=config["axes_dims_rope"])
    one = torch.arange(1)
    rows, columns = map(torch.arange, grid)
    image = torch.cartesian_prod(one, rows, columns, one)
    text = torch.cartesian_prod(one, one, one, torch.arange(text_tokens))
    image_tables, text_tables = (torch.cat(embed(positions), dim=-1).numpy() for positions in (image, text))
    return image_tables, text_tables


def predict(
    model: Flux2Transformer2DModel,
    _mesh: Mesh,
    dtype: str,
    weights: State,
    sample: jax.Array,
    timestep: jax.Array,
    guidance: jax.Array,
    embeddings: jax.Array,
    tables: tuple[jax.Array, jax.Array],
) -> jax.Array:
    """The output for `sample`; guidance is embedded in it.

    `embeddings` are `[1, tokens, width]`, `tables` the rotary tables of image and text.
    """
    image_tables, text_tables = tables
    (output,) = call(
        model,
        weights,
        hidden_states=sample.astype(dtype),
        encoder_hidden_states=embeddings,
        timestep=timestep[None] / 1000,
        guidance=guidance[None],
        img_ids=image_tables,
        txt_ids=text_tables,
        return_dict=False,
    )
    return output  # type: ignore[no-any-return]
