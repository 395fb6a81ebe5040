"""The denoiser: diffusers' transformer with our attention and scanned blocks, and one step of it."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import apply_rotary_emb, get_3d_rotary_pos_embed
from jax.sharding import Mesh
from numpy.typing import NDArray

from crystools_pipelines.cogvideox.request import PATCH_SIZE
from crystools_pipelines.cogvideox.scheduler import Schedule, SolverState, advance
from crystools_pipelines.cogvideox.text import MAX_TOKENS
from crystools_pipelines.runtime import layout
from crystools_pipelines.runtime.attention import attention
from crystools_pipelines.runtime.errors import CheckpointError, RequestError
from crystools_pipelines.runtime.functional import as_jax, as_torch, call
from crystools_pipelines.runtime.scan import ScannedLayers
from crystools_pipelines.runtime.weights import State

Rotary = tuple[jax.Array, jax.Array]


# XLA's compiler (libtpu 0.0.42) fails on sums over two devices of an odd number of tokens in bfloat16, as
# those of 226 text tokens: "Bitcast cannot have different shape sizes". So the text is padded.
_TOKENS_MULTIPLE = 32


class MeshAttention:
    """Takes the place of diffusers' CogVideoXAttnProcessor2_0: attention over the mesh, no write in place.

    Of the text only the first `text_tokens` are seen, the rest is padding. The rotation is that of the video.
    """

    def __init__(self, mesh: Mesh, text_tokens: int) -> None:
        self._mesh = mesh
        self._text_tokens = text_tokens

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        padded = encoder_hidden_states.shape[1]
        tokens = torch.cat([encoder_hidden_states, hidden_states], dim=1)

        def rotated(heads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return heads[:, :padded], apply_rotary_emb(heads[:, padded:], image_rotary_emb, sequence_dim=1)

        query = rotated(attn.norm_q(attn.to_q(tokens).unflatten(2, (attn.heads, -1))))
        key = rotated(attn.norm_k(attn.to_k(tokens).unflatten(2, (attn.heads, -1))))
        heads = attn.to_v(tokens).unflatten(2, (attn.heads, -1))
        value = heads[:, :padded], heads[:, padded:]
        keys, values = (
            as_jax(torch.cat([text[:, : self._text_tokens], video], dim=1)) for text, video in (key, value)
        )
        output = as_torch(attention(as_jax(torch.cat(query, dim=1)), keys, values, self._mesh))
        output = attn.to_out[0](output.flatten(2, 3))
        return output[:, padded:], output[:, :padded]


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
    model.set_attn_processor(MeshAttention(mesh, MAX_TOKENS))
    carries = ("hidden_states", "encoder_hidden_states")
    model.transformer_blocks = ScannedLayers(model.transformer_blocks, partial(layout.tokens, mesh), carries)
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


def denoising_step(
    model: CogVideoXTransformer3DModel,
    mesh: Mesh,
    dtype: str,
    weights: State,
    solver: SolverState,
    noise: jax.Array,
    schedule: Schedule,
    embeddings: jax.Array,
    rotary: Rotary,
) -> tuple[SolverState, jax.Array]:
    """The next solver state, and whether its latents are all finite.

    `noise` is the scheduler's for this step; `embeddings` are `[branches, tokens, width]`, the prompt's and,
    if guided, the negative prompt's.
    """
    branches = embeddings.shape[0]
    padding = -(embeddings.shape[1] + rotary[0].shape[0]) % _TOKENS_MULTIPLE
    embeddings = jnp.pad(embeddings.astype(dtype), ((0, 0), (0, padding), (0, 0)))
    sample = jnp.broadcast_to(solver.sample.astype(dtype), (branches, *solver.sample.shape[1:]))
    sample = jax.lax.with_sharding_constraint(sample, layout.branches(mesh))
    timestep = jnp.broadcast_to(schedule.timesteps[solver.step], (branches,))
    (output,) = call(
        model,
        weights,
        hidden_states=sample,
        encoder_hidden_states=embeddings,
        timestep=timestep,
        image_rotary_emb=rotary,
        return_dict=False,
    )
    output = output.astype(jnp.float32)
    if branches == 2:
        output = output[1:] + schedule.guidance[solver.step] * (output[:1] - output[1:])
    solver = advance(schedule, solver, output, noise)
    return solver, jnp.isfinite(solver.sample).all()
