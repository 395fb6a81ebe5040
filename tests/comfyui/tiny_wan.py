"""A Wan2.1 as ComfyUI's own nodes load it: one file with the transformer, here of one layer and random."""

from __future__ import annotations

from pathlib import Path
from typing import Final

WIDTH: Final = 128
"""The least that ComfyUI makes a head of; what else it needs to know it reads off the shapes."""

_TEXT, _FREQUENCIES, _LATENT = 4096, 256, 16
_LINEAR: Final = {
    "text_embedding.0": (WIDTH, _TEXT),
    "text_embedding.2": (WIDTH, WIDTH),
    "time_embedding.0": (WIDTH, _FREQUENCIES),
    "time_embedding.2": (WIDTH, WIDTH),
    "time_projection.1": (6 * WIDTH, WIDTH),
    **{f"blocks.0.{kind}_attn.{part}": (WIDTH, WIDTH) for kind in ("self", "cross") for part in "qkvo"},
    "blocks.0.ffn.0": (WIDTH, WIDTH),
    "blocks.0.ffn.2": (WIDTH, WIDTH),
    "head.head": (4 * _LATENT, WIDTH),
    "patch_embedding": (WIDTH, _LATENT, 1, 2, 2),
    "blocks.0.norm3": (WIDTH,),
}
_OTHERS: Final = {
    "blocks.0.modulation": (1, 6, WIDTH),
    "head.modulation": (1, 2, WIDTH),
    **{f"blocks.0.{kind}_attn.norm_{part}.weight": (WIDTH,) for kind in ("self", "cross") for part in "qk"},
}


def write_tiny_wan(file: Path) -> None:
    """Writes it, with its folder."""
    import torch
    from safetensors.torch import save_file

    shapes = {f"{name}.weight": shape for name, shape in _LINEAR.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in _LINEAR.items()}
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(shape, generator=generator) / 50 for name, shape in {**shapes, **_OTHERS}.items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file)
