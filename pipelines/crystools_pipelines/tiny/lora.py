"""A tiny random LoRA for a tiny checkpoint, in the format that peft writes and diffusers reads."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from crystools_pipelines.models import MODELS
from crystools_pipelines.tiny import SEED

_RANK: Final = 4


def write_tiny_lora(model: str, file: Path) -> Path:
    """Writes a LoRA of the transformer's attention, and returns its path; the same bytes each time."""
    import torch
    from safetensors.torch import save_file

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        transformer = MODELS[model].tiny_checkpoint().components["transformer"]
        torch.manual_seed(SEED)
        tensors = {}
        for name, module in transformer.named_modules():
            if isinstance(module, torch.nn.Linear) and ".attn" in name:
                down = torch.randn(_RANK, module.in_features) / module.in_features**0.5
                up = torch.randn(module.out_features, _RANK) / _RANK**0.5
                tensors[f"transformer.{name}.lora_A.weight"] = down
                tensors[f"transformer.{name}.lora_B.weight"] = up
    save_file(tensors, file)
    return file
