"""Tiny random checkpoints in the real diffusers format, for tests and for the demo.

Same classes, same files and same compression ratios as the published model; only the sizes are small. The
weights are random, arranged so that a video shows moving shapes which depend on seed and prompt, and
deterministic: writing the same model twice gives byte-identical files. Importing this imports neither torch
nor diffusers.
"""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crystools_pipelines.models import MODELS

SEED = 20250225


def write_tiny_checkpoint(model: str, directory: Path) -> Path:
    """Write a tiny random checkpoint of `model` into `directory`, which is made if need be, and return it.

    Raises ValueError for a model that has no tiny checkpoint and FileExistsError for a directory in use.
    """
    if model not in MODELS:
        known = ", ".join(sorted(MODELS))
        raise ValueError(f"model {model!r} has no tiny checkpoint; choose one of: {known}")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} is not an empty directory; name a new or an empty one")
    import torch

    with torch.random.fork_rng(devices=[]), torch.no_grad(), _no_progress_bars():
        torch.manual_seed(SEED)
        MODELS[model].tiny_checkpoint().save_pretrained(directory, safe_serialization=True)
    # The library for weights writes them for their user alone; they are as public as what lies beside them.
    mode = (directory / "model_index.json").stat().st_mode
    for weights in directory.rglob("*.safetensors"):
        weights.chmod(stat.S_IMODE(mode))
    return directory


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
