"""The denoiser: diffusers' transformer with our attention and scanned blocks, and its output."""

from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.models.normalization import CogVideoXLayerNormZero
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXBlock
from jax.sharding import Mesh
from numpy.typing import NDArray

from crystools_pipelines.cogvideox import sharding
from crystools_pipelines.cogvideox.request import PATCH_SIZE
from crystools_pipelines.cogvideox.text import MAX_TOKENS
from crystools_pipelines.errors import CheckpointError, RequestError
from crystools_pipelines.interop.functional import as_jax, as_torch, call
from crystools_pipelines.interop.scan import ScannedLayers
from crystools_pipelines.kernels.attention import Heads, attention
from crystools_pipelines.kernels.rotary import Norm, rotated
from crystools_pipelines.parallel import layout
from crystools_pipelines.runtime.denoising import on_branches
from crystools_pipelines.weights.loading import State

Rotary: TypeAlias = tuple[jax.Array, jax.Array]


class MeshAttention:
    """Takes the place of diffusers' CogVideoXAttnProcessor2_0: attention over the mesh, no write in place.

    Text and video are one stream, turned by the tables; tokens that these have no row for are padding.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: None,
        attention_mask: None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        tables = as_jax(image_rotary_emb)
        tokens, head_dim = tables[0].shape
        value = as_jax(attn.to_v(hidden_states))
        query, key = (
            rotated(
                as_jax(projection(hidden_states)),
                as_jax(norm.weight),
                as_jax(norm.bias),
                Norm("head", norm.eps, centred=True),
                tables,
                self._mesh,
                head_dim,
            )
            for projection, norm in ((attn.to_q, attn.norm_q), (attn.to_k, attn.norm_k))
        )
        output = attention(Heads(query, key, value), self._mesh, head_dim, tokens)
        return attn.to_out[0](as_torch(output))  # type: ignore[no-any-return]


class _Block(torch.nn.Module):
    """A CogVideoXBlock's layers on one stream: `video_tokens` of the video, then the text's."""

    def __init__(self, block: CogVideoXBlock) -> None:
        super().__init__()
        self.norm1, self.attn1 = block.norm1, block.attn1
        self.norm2, self.ff = block.norm2, block.ff

    def forward(
        self,
        hidden: torch.Tensor,
        embedding: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        video_tokens: int,
    ) -> torch.Tensor:
        is_video = as_torch(jnp.arange(hidden.shape[1])[:, None] < video_tokens)
        normed, gate = _modulated(self.norm1, hidden, embedding, is_video)
        hidden = hidden + gate * self.attn1(normed, image_rotary_emb=rotary)
        normed, gate = _modulated(self.norm2, hidden, embedding, is_video)
        return hidden + gate * self.ff(normed)  # type: ignore[no-any-return]


def _modulated(
    norm: CogVideoXLayerNormZero, hidden: torch.Tensor, embedding: torch.Tensor, is_video: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The normed states, and the gate for what is made of them: video and text have modulations each."""
    modulations = norm.linear(norm.silu(embedding))[:, None].chunk(6, dim=2)
    shift, scale, gate = (
        torch.where(is_video, of_video, of_text)
        for of_video, of_text in zip(modulations[:3], modulations[3:], strict=True)
    )
    return norm.norm(hidden) * (1 + scale) + shift, gate


class _Blocks(ScannedLayers):
    """The stack, called as diffusers' model calls a block: video and text meet before it and part behind."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor],
        attention_kwargs: None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        video_tokens, text_tokens = hidden_states.shape[1], encoder_hidden_states.shape[1]
        cosines, sines = as_jax(image_rotary_emb)
        rotary = as_torch(
            (
                jnp.pad(cosines, ((0, text_tokens), (0, 0)), constant_values=1),  # text is not turned
                jnp.pad(sines, ((0, text_tokens), (0, 0))),
            )
        )
        hidden = torch.cat([hidden_states, encoder_hidden_states], dim=1)
        hidden = super().forward(hidden, temb, rotary, video_tokens)
        return hidden[:, :video_tokens], hidden[:, video_tokens:]


def check_transformer(config: dict[str, Any]) -> None:
    """Raises CheckpointError for a configuration that is not of CogVideoX1.5 text-to-video."""
    if config.get("ofs_embed_dim") is not None or config["in_channels"] != config["out_channels"]:
        raise CheckpointError("the transformer takes an image as well; give a text-to-video checkpoint")
    patches = (config.get("patch_size_t"), config["patch_size"])
    if patches != (PATCH_SIZE, PATCH_SIZE) or not config["use_rotary_positional_embeddings"]:
        raise CheckpointError("the transformer is of the first CogVideoX; give a checkpoint of CogVideoX1.5")


def build_transformer(folder: Path, mesh: Mesh) -> CogVideoXTransformer3DModel:
    """The transformer from the configuration in `folder`, its parameters on the meta device."""
    config = CogVideoXTransformer3DModel.load_config(folder)
    with torch.device("meta"):
        model = CogVideoXTransformer3DModel.from_config(config).eval()
    model.set_attn_processor(MeshAttention(mesh))
    model.transformer_blocks = _Blocks(
        torch.nn.ModuleList(map(_Block, model.transformer_blocks)),
        mesh,
        weights=partial(layout.at_work, mesh, sharding.TRANSFORMER, "transformer_blocks.layer."),
        main_tokens=slice(-MAX_TOKENS),
    )
    return model


def rotary_embedding(
    config: dict[str, Any], latent_shape: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosines and sines of the place of every token of the video, float32 `[tokens, head_dim]` each.

    Raises RequestError for a picture larger than the model knows.
    """
    _, frames, _, *picture = latent_shape
    for field, latents in zip(("height", "width"), picture, strict=True):
        if latents > (largest := config[f"sample_{field}"]):
            raise RequestError(
                field, f"{8 * latents} is more than this checkpoint knows; {8 * largest} would do"
            )
    cosines, sines = get_3d_rotary_pos_embed(
        embed_dim=config["attention_head_dim"],
        crops_coords=None,
        grid_size=tuple(size // PATCH_SIZE for size in picture),
        temporal_size=frames // PATCH_SIZE,
        grid_type="slice",
        max_size=(config["sample_height"] // PATCH_SIZE, config["sample_width"] // PATCH_SIZE),
    )
    return cosines.numpy(), sines.numpy()


def predict(
    model: CogVideoXTransformer3DModel,
    mesh: Mesh,
    dtype: str,
    weights: State,
    sample: jax.Array,
    timestep: jax.Array,
    _guidance: jax.Array,
    embeddings: jax.Array,
    rotary: Rotary,
) -> jax.Array:
    """The outputs for `sample`, one for each guidance branch.

    `embeddings` are `[branches, tokens, width]`, the prompt's and, if guided, the negative prompt's.
    """
    sample, timestep = on_branches(mesh, dtype, embeddings.shape[0], sample, timestep)
    (outputs,) = call(
        model,
        weights,
        hidden_states=sample,
        encoder_hidden_states=embeddings.astype(dtype),
        timestep=timestep,
        image_rotary_emb=rotary,
        return_dict=False,
    )
    return outputs  # type: ignore[no-any-return]
