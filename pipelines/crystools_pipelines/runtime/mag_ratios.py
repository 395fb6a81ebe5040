"""The ratios by which MagCache knows before a run which steps to skip: the published, and a user's own.

A ratio is by how much longer a step's residual is than that of the step before, on average over the tokens.
They differ with the weights, and with the schedule. A list of them is of one transformer and one guidance
branch, with one for each step.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from crystools_pipelines.errors import RequestError
from crystools_pipelines.requests.lora import Lora
from crystools_pipelines.requests.step_cache import MagCache
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_tpu.data_dir import MAG_RATIOS, data_dir
from crystools_tpu.whole_file import written_whole

Ratios: TypeAlias = Mapping[str, Sequence[Sequence[float]]]
"""For each transformer's component the lists of its guidance branches, the prompt's first."""

_PUBLISHED = Path(__file__).with_name("mag_ratios.json")
_CALIBRATE = "run it once with the step cache calibrate, which measures them"


@dataclass(frozen=True)
class Measured:
    """What ratios are of: a model's checkpoint with LoRAs merged."""

    model: str
    checkpoint: Checkpoint
    loras: Sequence[Lora] = ()

    def path(self) -> Path:
        """The file for its own ratios, in the user's data folder."""
        parts = json.dumps([self.model, self._location, *map(str, self.loras)])
        digest = sha256(parts.encode()).hexdigest()[:16]
        return data_dir() / MAG_RATIOS / f"{self.model}-{digest}.json"

    @property
    def _location(self) -> str:
        location = self.checkpoint.location
        return str(Path(location).resolve()) if Path(location).is_dir() else location

    def keep(self, ratios: Ratios) -> Path:
        """Writes its own ratios, whole or not at all. Raises OSError where they cannot be."""
        path = self.path()
        content = {
            "model": self.model,
            "checkpoint": self._location,
            "loras": [str(lora) for lora in self.loras],
            "ratios": ratios,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as unfinished:
            unfinished.write_text(json.dumps(content, indent=1))
        return path

    def find(self, components: Sequence[str]) -> tuple[Ratios, str | None]:
        """The ratios for these transformers: its own, those of the checkpoint without LoRAs, the published.

        With what should be known of them. Raises RequestError where there are none.
        """
        for of_own in (self, Measured(self.model, self.checkpoint)):
            if (ratios := _read(of_own.path())) is not None:
                break
        else:
            ratios, of_own = _published(self.model, self.checkpoint), Measured(self.model, self.checkpoint)
        if ratios is None:
            raise RequestError(
                "step_cache",
                f"no ratios of {self.checkpoint.location} are known, which mag needs; {_CALIBRATE}",
            )
        if lacking := [component for component in components if component not in ratios]:
            raise RequestError(
                "step_cache",
                f"the ratios in {of_own.path()} are not of the {' and '.join(lacking)} that this run needs; "
                + _CALIBRATE,
            )
        if self.loras and not of_own.loras:
            return ratios, (
                "the step cache's ratios were measured without the LoRAs, which may skip steps that matter; "
                + _CALIBRATE
            )
        return ratios, None


def skipped_steps(rule: MagCache, ratios: Sequence[Sequence[float]], steps: int) -> list[bool]:
    """Which of a transformer's steps are skipped, as MagCacheHook of diffusers decides, in float32.

    As there one list is for all guidance branches, here the prompt's.
    """
    one = np.float32(1)
    error, ratio, skipped = np.float32(0), one, 0
    retained = int(rule.retention_ratio * steps + 0.5)
    plan = []
    for step, next_ratio in enumerate(_for_steps(ratios[0], steps)):
        skips = False
        if step >= retained:
            ratio, skipped = np.float32(ratio * next_ratio), skipped + 1
            error = np.float32(error + abs(one - ratio))
            near = bool(error <= np.float32(rule.threshold))
            skips = step > 0 and near and skipped <= rule.max_skip_steps
            if not skips:
                error, ratio, skipped = np.float32(0), one, 0
        plan.append(skips)
    return plan


def _for_steps(ratios: Sequence[float], steps: int) -> NDArray[np.float32]:
    """The ratios stretched over so many steps: for each the nearest, for one the last."""
    measured = np.asarray(ratios, np.float32)
    if steps == len(measured):
        return measured
    if steps == 1:
        return measured[-1:]
    scale = (len(measured) - 1) / (steps - 1)
    nearest: NDArray[np.float32] = measured[
        np.round(np.arange(steps, dtype=np.float32) * np.float32(scale)).astype(int)
    ]
    return nearest


@cache
def _all_published() -> dict[str, Any]:
    published: dict[str, Any] = json.loads(_PUBLISHED.read_text())
    return published


def _published(model: str, checkpoint: Checkpoint) -> Ratios | None:
    """Those of the model's published transformer, for a checkpoint whose transformer is as large."""
    entry = _all_published().get(model)
    if entry is None:
        return None
    config = checkpoint.config("transformer")
    sizes = ("num_layers", "num_attention_heads")
    alike = all(config[size] == entry[size] for size in sizes)
    return entry["ratios"] if alike else None


def _read(path: Path) -> Ratios | None:
    """The ratios in the file; None where there is none. Raises RequestError for one that is none of ours."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RequestError("step_cache", f"{path} cannot be read: {error}; {_CALIBRATE}") from None
    try:
        ratios: Ratios = json.loads(text)["ratios"]
        if all(np.isfinite(np.asarray(each, np.float32)).all() and len(each[0]) for each in ratios.values()):
            return ratios
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        pass
    raise RequestError("step_cache", f"the ratios in {path} cannot be read; delete it, and {_CALIBRATE}")
