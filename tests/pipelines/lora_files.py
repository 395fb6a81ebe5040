"""LoRAs of random weights for a tiny transformer, in the forms that people share them in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import torch

Tensors = dict[str, torch.Tensor]

RANK = 4

# How the authors of Wan call the modules of a block, and how those of FLUX.2 do.
_WAN = (
    (r"attn1\.to_([qkv])$", r"self_attn.\1"),
    (r"attn2\.to_([qkv])$", r"cross_attn.\1"),
    (r"attn1\.to_out\.0$", "self_attn.o"),
    (r"attn2\.to_out\.0$", "cross_attn.o"),
    (r"ffn\.net\.0\.proj$", "ffn.0"),
    (r"ffn\.net\.2$", "ffn.2"),
    (r"^condition_embedder\.time_proj$", "time_projection.1"),
    (r"^condition_embedder\.text_embedder\.linear_1$", "text_embedding.0"),
    (r"^condition_embedder\.text_embedder\.linear_2$", "text_embedding.2"),
    (r"^condition_embedder\.time_embedder\.linear_1$", "time_embedding.0"),
    (r"^condition_embedder\.time_embedder\.linear_2$", "time_embedding.2"),
    (r"^proj_out$", "head.head"),
)


def wan_name(module: str) -> str:
    """What the authors of Wan call a module of diffusers' transformer."""
    for pattern, name in _WAN:
        module = re.sub(pattern, name, module)
    return module


def linears(module: torch.nn.Module, pattern: str = "") -> dict[str, tuple[int, int]]:
    """The Linears whose names match: how many outputs and inputs each has."""
    return {
        name: (each.out_features, each.in_features)
        for name, each in module.named_modules()
        if isinstance(each, torch.nn.Linear) and re.search(pattern, name)
    }


def factors(shapes: Mapping[str, tuple[int, int]], seed: int = 0, rank: int = RANK) -> Tensors:
    """Both factors for modules of these outputs and inputs, by the module and `lora_A` or `lora_B`."""
    generator = torch.Generator().manual_seed(seed)
    made: Tensors = {}
    for name, (outputs, inputs) in shapes.items():
        made[f"{name}.lora_A"] = 0.1 * torch.randn(rank, inputs, generator=generator)
        made[f"{name}.lora_B"] = 0.1 * torch.randn(outputs, rank, generator=generator)
    return made


def peft(made: Tensors, component: str = "transformer") -> Tensors:
    """As diffusers itself saves it."""
    return {f"{component}.{name}.weight": tensor for name, tensor in made.items()}


def _renamed(made: Tensors, rename: Callable[[str], str], down: str, up: str) -> Tensors:
    parts = {"lora_A": down, "lora_B": up}
    named = ((name.rpartition("."), tensor) for name, tensor in made.items())
    return {f"{rename(module)}.{parts[part]}.weight": tensor for (module, _, part), tensor in named}


def comfyui(made: Tensors, rename: Callable[[str], str], *, down_up: bool = False) -> Tensors:
    """As ComfyUI's tools save it, under the names of the model's authors."""
    parts = ("lora_down", "lora_up") if down_up else ("lora_A", "lora_B")
    return _renamed(made, lambda module: f"diffusion_model.{rename(module)}", *parts)


def kohya(made: Tensors, rename: Callable[[str], str], alpha: float = 2.0) -> Tensors:
    """As kohya's scripts and musubi-tuner save it: dots are underscores, and every module has its alpha."""
    flat = _renamed(
        made, lambda module: f"lora_unet_{rename(module).replace('.', '_')}", "lora_down", "lora_up"
    )
    return with_alpha(flat, alpha)


def with_alpha(tensors: Tensors, alpha: float, modules: Iterable[str] | None = None) -> Tensors:
    """The same with an alpha for every module, or for those whose names have one of these in them."""
    ending = ".lora_down.weight"
    downs = [name.removesuffix(ending) for name in tensors if name.endswith(ending)]
    chosen = [name for name in downs if modules is None or any(each in name for each in modules)]
    return tensors | {f"{name}.alpha": torch.tensor(alpha) for name in chosen}
