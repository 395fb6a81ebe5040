"""The bytes that text encoders and VAEs move at least, against what the full-size layers read and write.

The models live on the meta device; hooks see the shapes of what goes into and comes out of each layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, AutoencoderKLFlux2, AutoencoderKLWan
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import (
    CogVideoXCausalConv3d,
    CogVideoXResnetBlock3D,
    CogVideoXSpatialNorm3D,
)
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanAttentionBlock,
    WanCausalConv3d,
    WanResidualBlock,
)
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import CogVideoXUpsample3D, Upsample2D
from transformers import MistralConfig, MistralModel, T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel
from transformers.models.mistral.modeling_mistral import MistralAttention, MistralMLP
from transformers.models.t5.modeling_t5 import T5LayerFF, T5LayerSelfAttention
from transformers.models.umt5.modeling_umt5 import UMT5LayerFF, UMT5LayerSelfAttention

from crystools_pipelines.cogvideox import costs as cogvideox
from crystools_pipelines.cogvideox.vae import turns
from crystools_pipelines.costs import Cost
from crystools_pipelines.flux2 import costs as flux2
from crystools_pipelines.flux2.text import LAYERS
from crystools_pipelines.wan import costs as wan21
from crystools_pipelines.wan.wan22_i2v import costs as wan22_i2v

Elements = Callable[[Any, dict[str, Any], Any], int]


def size(value: Any) -> int:
    """Elements of the tensors in what a layer takes or, before its caches, returns."""
    if isinstance(value, torch.Tensor):
        return value.numel()
    return sum(map(size, value)) if isinstance(value, tuple | list) else 0


def first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value


def in_and_out(args: Any, kwargs: dict[str, Any], output: Any) -> int:
    return size(args) + size(kwargs.get("conv_cache")) + size(first(output))


def hidden_in_and_out(args: Any, kwargs: dict[str, Any], output: Any) -> int:
    return size(args[0] if args else kwargs["hidden_states"]) + size(first(output))


def with_keys_and_values(args: Any, kwargs: dict[str, Any], output: Any) -> int:
    """An image's attention, whose keys and values are as wide as its input."""
    return in_and_out(args, kwargs, output) + 2 * 2 * size(args)


def out_and_in(_args: Any, _kwargs: dict[str, Any], output: Any) -> int:
    return 2 * size(output)


# What counts as one layer, with what it reads and writes; nothing within it is looked at.
LAYER: dict[type[torch.nn.Module], Elements] = {
    torch.nn.Conv2d: in_and_out,
    WanCausalConv3d: in_and_out,
    CogVideoXCausalConv3d: in_and_out,
    torch.nn.Sequential: in_and_out,  # Wan's change of size: padding or repetition, and a convolution
    CogVideoXUpsample3D: in_and_out,
    Upsample2D: in_and_out,
    CogVideoXSpatialNorm3D: lambda args, _kwargs, _output: size(args[1]),  # the latents
    WanAttentionBlock: with_keys_and_values,
    Attention: with_keys_and_values,
    T5LayerFF: hidden_in_and_out,
    UMT5LayerFF: hidden_in_and_out,
    MistralMLP: hidden_in_and_out,
    torch.nn.Embedding: lambda _args, _kwargs, output: size(output),  # the tokens' rows
}
# What reads its input once more than the layers within do: for its sum with what they make of it.
SUMS = (WanResidualBlock, CogVideoXResnetBlock3D, ResnetBlock2D)
# What reads and writes hidden states, while the keys and values within are written and read.
ATTENDS = (T5LayerSelfAttention, UMT5LayerSelfAttention, MistralAttention)


@contextmanager
def counted(*modules: torch.nn.Module) -> Iterator[list[int]]:
    """Gathers the elements that layers within the modules read and write while they run."""
    elements: list[int] = []
    handles = []

    def watch(module: torch.nn.Module, count: Elements) -> None:
        def hook(_module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            elements.append(count(args, kwargs, output))

        handles.append(module.register_forward_hook(hook, with_kwargs=True))

    def visit(name: str, module: torch.nn.Module, attends: bool) -> None:
        if attends:
            if name in ("k", "v", "k_proj", "v_proj"):
                watch(module, out_and_in)
        elif type(module) in LAYER:
            watch(module, LAYER[type(module)])
            return
        if isinstance(module, SUMS):
            watch(module, lambda args, _kwargs, _output: size(args[0]))
        if isinstance(module, ATTENDS):
            watch(module, hidden_in_and_out)
        for child_name, child in module.named_children():
            if child_name != "conv_shortcut":
                visit(child_name, child, attends or isinstance(module, ATTENDS))

    for module in modules:
        visit("", module, attends=False)
    yield elements
    for handle in handles:
        handle.remove()


def parameters(*modules: torch.nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def run(module: Any, *args: torch.Tensor) -> None:
    with torch.no_grad():
        module(*args)


def empty(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")


def token_ids(batch: int, tokens: int) -> torch.Tensor:
    return torch.zeros(batch, tokens, dtype=torch.long, device="meta")


@pytest.fixture(scope="module")
def wan_vae() -> Any:
    """The defaults of all three VAEs' classes are the published configurations."""
    with torch.device("meta"):
        return AutoencoderKLWan()


def moved_bytes(costs: Iterable[Cost]) -> float:
    return sum(cost.moved_bytes(4) for cost in costs)


# The first is 720x1280 in 81 frames. In the second latent frame diffusers reads one frame of past and we two
# (one of zeros, so that one program serves all): in a video of a few latent frames that is more than 1%.
WAN_LATENTS = [(1, 16, 21, 90, 160), (1, 16, 1, 60, 104), (2, 16, 31, 32, 48)]


@pytest.mark.parametrize("latent_shape", WAN_LATENTS)
def test_wan_decodes_each_latent_frame_with_the_weights_once(
    wan_vae: Any, latent_shape: wan21.LatentShape
) -> None:
    parts = (wan_vae.post_quant_conv, wan_vae.decoder)
    with counted(*parts) as elements:
        run(wan_vae.decode, empty(*latent_shape))
    weights = latent_shape[2] * parameters(*parts)
    moved = moved_bytes(wan21.vae_decode(wan_vae.config, latent_shape))
    assert moved == pytest.approx(4 * (weights + sum(elements)), rel=0.01)


@pytest.mark.parametrize("latent_shape", WAN_LATENTS)
def test_wan_encodes_each_latent_frame_with_the_weights_once(
    wan_vae: Any, latent_shape: wan21.LatentShape
) -> None:
    batch, _, frames, height, width = latent_shape
    parts = (wan_vae.encoder, wan_vae.quant_conv)
    with counted(*parts) as elements:
        run(wan_vae.encode, empty(batch, 3, 4 * frames - 3, 8 * height, 8 * width))
    weights = frames * parameters(*parts)
    moved = moved_bytes(wan22_i2v.vae_encode(wan_vae.config, latent_shape))
    assert moved == pytest.approx(4 * (weights + sum(elements)), rel=0.01)


def test_a_further_latent_frame_of_wan_without_pixels_moves_exactly_the_weights(wan_vae: Any) -> None:
    for count, parts in (
        (wan21.vae_decode, (wan_vae.post_quant_conv, wan_vae.decoder)),
        (wan22_i2v.vae_encode, (wan_vae.encoder, wan_vae.quant_conv)),
    ):
        one, two = (moved_bytes(count(wan_vae.config, (1, 16, frames, 0, 0))) for frames in (1, 2))
        assert two - one == 4 * parameters(*parts)
        in_time = [module for part in parts for name, module in part.named_modules() if "time_conv" in name]
        assert two - 2 * one == 4 * parameters(*(m for m in in_time if isinstance(m, WanCausalConv3d)))


@pytest.mark.parametrize(("frames", "height", "width"), [(21, 90, 160), (6, 60, 90), (1, 60, 90)])
def test_cogvideox_decodes_each_turn_with_the_weights_once(frames: int, height: int, width: int) -> None:
    with torch.device("meta"):
        vae = AutoencoderKLCogVideoX()
    with counted(vae.decoder) as elements:
        run(vae.decode, empty(1, 16, frames, height, width))
    counts = turns(frames)
    moved = moved_bytes(
        cogvideox.vae_turn(vae.config, count, height * width, first=index == 0)
        for index, count in enumerate(counts)
    )
    assert moved == pytest.approx(4 * (len(counts) * parameters(vae.decoder) + sum(elements)), rel=0.01)
    without_pixels = cogvideox.vae_turn(vae.config, 2, 0, first=False).moved_bytes(4)
    assert without_pixels == 4 * parameters(vae.decoder)


@pytest.mark.parametrize(("rows", "columns"), [(128, 128), (32, 96)])
def test_flux2_decodes_with_the_weights_once(rows: int, columns: int) -> None:
    with torch.device("meta"):
        vae = AutoencoderKLFlux2()
    with counted(vae.post_quant_conv, vae.decoder) as elements:
        run(vae.decode, empty(1, 32, rows, columns))
    weights = (
        parameters(vae.post_quant_conv, vae.decoder)
        + vae.bn.running_mean.numel()
        + vae.bn.running_var.numel()
    )
    moved = flux2.vae_decode(vae.config, rows * columns).moved_bytes(4)
    assert moved == 4 * (weights + sum(elements))


XXL = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}


@pytest.mark.parametrize(
    ("build", "config", "cost", "tokens"),
    [
        (UMT5EncoderModel, UMT5Config(vocab_size=256384, **XXL), wan21.text_encoder, 512),
        (
            T5EncoderModel,
            T5Config(vocab_size=32128, feed_forward_proj="gated-gelu", **XXL),
            cogvideox.text_encoder,
            226,
        ),
    ],
    ids=["umt5", "t5"],
)
def test_t5_reads_its_weights_once_and_of_the_vocabulary_the_tokens_rows(
    build: Any, config: Any, cost: Callable[..., Cost], tokens: int
) -> None:
    with torch.device("meta"):
        encoder = build(config)
    with counted(encoder) as elements:
        run(encoder, token_ids(2, tokens))
    weights = parameters(encoder) - encoder.shared.weight.numel()
    embeddings = 2 * tokens * config.d_model
    assert cost(config.to_dict(), 2, tokens).moved_bytes(2) == 2 * (weights + sum(elements) + embeddings)
    assert cost(config.to_dict(), 2, 0).moved_bytes(2) == 2 * weights


def test_mistral_reads_the_layers_that_are_used_and_of_the_vocabulary_the_tokens_rows() -> None:
    # The text encoder of FLUX.2-dev.
    config = {
        "head_dim": 128,
        "hidden_size": 5120,
        "intermediate_size": 32768,
        "num_attention_heads": 32,
        "num_hidden_layers": LAYERS[-1],
        "num_key_value_heads": 8,
        "sliding_window": None,
        "vocab_size": 131072,
    }
    with torch.device("meta"):
        model = MistralModel(MistralConfig(**config))
    with counted(model.embed_tokens, model.layers) as elements:
        run(model, token_ids(1, 512))
    weights = parameters(model.layers)
    embeddings = 512 * 3 * 5120
    assert flux2.text_encoder(config, 512, LAYERS).moved_bytes(2) == 2 * (
        weights + sum(elements) + embeddings
    )
    assert flux2.text_encoder(config, 0, LAYERS).moved_bytes(2) == 2 * weights
