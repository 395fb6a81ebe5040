"""Tiny random checkpoints in the real diffusers format, for tests and for the demo.

Same classes, same files and same compression ratios as the published model; only the sizes are small. The
weights are random, arranged so that a video shows moving shapes which depend on seed and prompt, and
deterministic: writing the same model twice gives byte-identical files.
"""

import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from transformers.utils import logging

from crystools_pipelines.tiny.cogvideox import cogvideox
from crystools_pipelines.tiny.flux import flux2
from crystools_pipelines.tiny.wan import wan21, wan22_i2v

SEED = 20250225


def write_tiny_checkpoint(model: str, directory: Path) -> Path:
    """Write a tiny random checkpoint of `model` into `directory`, which is made if need be, and return it.

    Raises ValueError for a model that has no tiny checkpoint and FileExistsError for a directory in use.
    """
    if model not in PIPELINES:
        known = ", ".join(sorted(PIPELINES))
        raise ValueError(f"model {model!r} has no tiny checkpoint; choose one of: {known}")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} is not an empty directory; name a new or an empty one")
    with torch.random.fork_rng(devices=[]), torch.no_grad(), _no_progress_bars():
        torch.manual_seed(SEED)
        PIPELINES[model]().save_pretrained(directory, safe_serialization=True)
    # The library for weights writes them for their user alone; they are as public as what lies beside them.
    mode = (directory / "model_index.json").stat().st_mode
    for weights in directory.rglob("*.safetensors"):
        weights.chmod(stat.S_IMODE(mode))
    return directory


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


PIPELINES: dict[str, Callable[[], DiffusionPipeline]] = {
    "cogvideox-t2v": cogvideox,
    "flux.2": flux2,
    "wan2.1-t2v": wan21,
    "wan2.2-i2v": wan22_i2v,
}
