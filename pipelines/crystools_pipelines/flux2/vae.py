"""The VAE's decoder: latents as the denoiser left them to an image, in one program."""

from functools import partial
from math import prod
from pathlib import Path

import jax
import jax.numpy as jnp
import torch
from diffusers import AutoencoderKLFlux2
from diffusers.models.attention_processor import Attention
from jax.sharding import Mesh

from crystools_pipelines.flux2 import costs, sharding
from crystools_pipelines.flux2.request import PATCH
from crystools_pipelines.interop.functional import as_jax, as_torch, call
from crystools_pipelines.kernels.attention import Heads, attention
from crystools_pipelines.parallel import layout
from crystools_pipelines.runtime.stages import FLOAT32_BYTES, StepCost, Turn
from crystools_pipelines.weights.loading import State


class ImageDecoder(torch.nn.Module):
    """The parts of AutoencoderKLFlux2 that decode, under the names that they have there."""

    def __init__(self, vae: AutoencoderKLFlux2) -> None:
        super().__init__()
        self.post_quant_conv = vae.post_quant_conv
        self.decoder = vae.decoder
        self.bn = _Statistics(vae.bn)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Tokens' channels `[1, 128, rows, columns]` to pixels `[1, 3, 16 rows, 16 columns]`, -1 to 1."""
        latents = torch.nn.functional.pixel_shuffle(self.bn(latents), 2)
        if self.post_quant_conv is not None:
            latents = self.post_quant_conv(latents)
        return self.decoder(latents)  # type: ignore[no-any-return]


class _Statistics(torch.nn.Module):
    """The inverse of a batch norm without weights; its running statistics are loaded like parameters."""

    def __init__(self, norm: torch.nn.BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self.running_mean = torch.nn.Parameter(norm.running_mean, requires_grad=False)
        self.running_var = torch.nn.Parameter(norm.running_var, requires_grad=False)
        self._eps = norm.eps

    def forward(self, normed: torch.Tensor) -> torch.Tensor:
        deviation = torch.sqrt(self.running_var + self._eps)
        return normed * deviation[:, None, None] + self.running_mean[:, None, None]


class _Attention:
    """Takes the place of AttnProcessor2_0 in the decoder's middle: one head over all the latents."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = sharding.one_head(mesh)

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        normed = attn.group_norm(hidden_states.flatten(2)).transpose(1, 2)
        heads = Heads(*(as_jax(projection(normed)) for projection in (attn.to_q, attn.to_k, attn.to_v)))
        output = as_torch(attention(heads, self._mesh, head_dim=heads.query.shape[2]))
        return attn.to_out[0](output).transpose(1, 2).reshape(hidden_states.shape) + hidden_states  # type: ignore[no-any-return]


def build_decoder(folder: Path, mesh: Mesh) -> ImageDecoder:
    """The decoder from the configuration in `folder`, on the meta device."""
    config = AutoencoderKLFlux2.load_config(folder)
    with torch.device("meta"):
        vae = AutoencoderKLFlux2.from_config(config).eval()
    for layer in vae.decoder.mid_block.attentions:
        if layer is not None:
            layer.processor = _Attention(mesh)
    return ImageDecoder(vae)


def decoding_turn(decoder: ImageDecoder, mesh: Mesh, config: costs.Config, grid: tuple[int, int]) -> Turn:
    """The one turn over latents `[1, tokens, 128]`, `grid` rows and columns of them.

    It gives the image, float32 `[1, height, width, 3]` in 0..1.
    """
    cost = costs.vae_decode(config, PATCH**2 * prod(grid))
    return Turn(partial(_decode, decoder, mesh, grid), StepCost.of(cost, FLOAT32_BYTES), 0)


def _decode(
    decoder: ImageDecoder,
    mesh: Mesh,
    grid: tuple[int, int],
    weights: State,
    latents: jax.Array,
    _start: jax.Array,
    _cache: None,
) -> tuple[jax.Array, None, jax.Array]:
    """The image, nothing for another turn, and whether all of it is finite."""
    rows, columns = grid
    latents = jnp.swapaxes(latents, 1, 2).reshape(1, -1, rows, columns)
    latents = jax.lax.with_sharding_constraint(latents, layout.pixels(mesh, latents.shape))
    pixels = call(decoder, weights, latents)
    image = jnp.transpose(jnp.clip(pixels / 2 + 0.5, 0, 1), (0, 2, 3, 1))
    return image, None, jnp.isfinite(pixels).all()
