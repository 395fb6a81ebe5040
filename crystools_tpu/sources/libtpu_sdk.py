"""libtpu's SDK: TensorCore utilisation and HBM bandwidth, which the runtime's gRPC lacks or lacks in part."""

from __future__ import annotations

import importlib.machinery
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from crystools_tpu.sources.base import ChipReading, Quiet, Reading, SourceError, SourceUnavailable
from crystools_tpu.sources.child import Child
from crystools_tpu.sources.tpu_discovery import SYSFS, FoundChip, find_chips
from crystools_tpu.telemetry.chips import CHIPS_BY_NAME

_CHILD: Final = Path(__file__).with_name("libtpu_sdk_child.py")
_START_TIMEOUT_SECONDS: Final = 30.0
_FIRST_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 60.0


class LibtpuSdkSource:
    """Reads the SDK in a child process that is kept, and killed when it stalls.

    The child has half a minute to load libtpu and answer for the first time; until then the
    source is absent rather than down. A child that stalled or died is started again after a pause that
    doubles, because loading libtpu is dear. `chip_ids` names the chips in the SDK's order; while it names
    none they count from 0. While `quiet` says why no runtime has figures the SDK, which asks the
    same runtime, has none either, and is not loaded for that; after a failure `quiet` is told to look anew.
    `libtpu_path` is a folder that holds another `libtpu` package.
    """

    name: Final = "libtpu_sdk"

    def __init__(
        self,
        *,
        sysfs: Path = SYSFS,
        chip_ids: Callable[[], Sequence[str]] = tuple,
        quiet: Callable[[bool], Quiet | None] = lambda look: None,
        libtpu_path: Path | None = None,
        environ: Mapping[str, str] = os.environ,
        timeout_seconds: float = 0.8,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sysfs = sysfs
        self._chip_ids = chip_ids
        self._quiet = quiet
        self._path = [str(libtpu_path)] if libtpu_path is not None else []
        self._environ = environ
        self._timeout_seconds = timeout_seconds
        self._monotonic = monotonic
        self._child: Child | None = None
        self._started_at = 0.0
        self._loaded = False
        self._failures = 0
        self._retry_at = 0.0

    def read(self) -> Reading:
        """The SDK's figures now. Blocks for `timeout_seconds` at most."""
        chips = find_chips(self._sysfs)
        if not chips:
            raise SourceUnavailable("no TPU chip is attached to this machine")
        if importlib.machinery.PathFinder.find_spec("libtpu", [*self._path, *sys.path]) is None:
            raise SourceUnavailable("libtpu is not installed; pip install libtpu")
        if (quiet := self._quiet(False)) is not None:
            return Reading(quiet=quiet)
        answer = self._ask()
        if "absent" in answer:
            raise SourceUnavailable(f"libtpu's SDK cannot be loaded: {answer['absent']}")
        if "error" in answer:
            if (quiet := self._quiet(True)) is not None:
                return Reading(quiet=quiet)
            raise SourceError(f"libtpu's SDK gave no metric: {answer['error']}")
        return self._reading(answer["metrics"], chips)

    def close(self) -> None:
        """Kills the child. A later read starts another."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _ask(self) -> dict[str, Any]:
        child = self._child or self._start()
        if not self._loaded:
            greeting = self._receive(child)
            if greeting is None:
                raise self._still_loading()
            if "absent" in greeting:
                self.close()
                return greeting
            self._loaded = True
        child.send()
        answer = self._receive(child)
        if answer is None:
            raise self._give_up(f"did not answer within {self._timeout_seconds:g} s")
        self._failures = 0
        return answer

    def _start(self) -> Child:
        now = self._monotonic()
        if now < self._retry_at:
            raise SourceError(f"libtpu's SDK failed; it is loaded again in {self._retry_at - now:.1f} s")
        path = os.pathsep.join(filter(None, [*self._path, self._environ.get("PYTHONPATH")]))
        # -P: the script's own folder holds modules with everyday names.
        self._child = Child([sys.executable, "-P", str(_CHILD)], {**self._environ, "PYTHONPATH": path})
        self._started_at = now
        self._loaded = False
        return self._child

    def _receive(self, child: Child) -> dict[str, Any] | None:
        try:
            line = child.receive(self._timeout_seconds)
        except EOFError:
            raise self._give_up("ended unexpectedly") from None
        return None if line is None else dict(json.loads(line))

    def _still_loading(self) -> SourceError:
        if self._monotonic() - self._started_at >= _START_TIMEOUT_SECONDS:
            return self._give_up(f"was not loaded within {_START_TIMEOUT_SECONDS:g} s")
        if self._failures:
            return SourceError("libtpu's SDK is being loaded again")
        return SourceUnavailable("libtpu's SDK is being loaded")

    def _give_up(self, why: str) -> SourceError:
        self.close()
        pause = min(_FIRST_PAUSE_SECONDS * 2.0**self._failures, _LONGEST_PAUSE_SECONDS)
        self._failures = min(self._failures + 1, 10)
        self._retry_at = self._monotonic() + pause
        return SourceError(f"libtpu's SDK {why}; it is loaded again in {pause:g} s")

    def _reading(self, metrics: Mapping[str, Sequence[float]], chips: Sequence[FoundChip]) -> Reading:
        ids = tuple(self._chip_ids()) or tuple(f"tpu{number}" for number in range(len(chips)))
        spec = CHIPS_BY_NAME.get(chips[0].chip.value.name)
        # Of more than one core the SDK says one or two figures a chip, by its version.
        cores = (1,) if spec is not None and spec.tensorcores == 1 else (1, 2)
        by_field = {field: _by_chip(field, values, ids, cores) for field, values in metrics.items()}
        tensorcore = by_field.get("tensorcore_utilization", {})
        bandwidth = by_field.get("hbm_bandwidth_utilization", {})
        return Reading(
            chips=tuple(
                ChipReading(
                    chip=chip,
                    tensorcore_utilization_ratio=tensorcore.get(chip),
                    hbm_bandwidth_utilization_ratio=bandwidth.get(chip),
                )
                for chip in ids
                if chip in tensorcore or chip in bandwidth
            )
        )


def _by_chip(
    field: str, percents: Sequence[float], ids: Sequence[str], cores: Sequence[int]
) -> dict[str, float]:
    """Ratios by chip: the mean where the SDK gives one figure a core. Negative is libtpu's `unknown`."""
    per_chip = len(percents) // len(ids)
    if per_chip * len(ids) != len(percents) or per_chip not in cores:
        raise SourceError(f"libtpu's SDK gave {len(percents)} figures of {field} for {len(ids)} chips")
    groups = (percents[index * per_chip : (index + 1) * per_chip] for index in range(len(ids)))
    return {chip: fmean(group) / 100 for chip, group in zip(ids, groups, strict=True) if min(group) >= 0}
