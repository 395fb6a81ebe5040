"""Device-true step times: a waiter thread blocks on each step's output in order and stamps it.

A host clock around an asynchronous dispatch measures the dispatch. Here the host only enqueues; it waits
no more than to keep at most two steps in flight, so the device never idles and memory stays bounded.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from queue import SimpleQueue
from typing import Any, NamedTuple

from crystools_tpu.telemetry.events import CACHED
from crystools_tpu.telemetry.guard import Guard
from crystools_tpu.telemetry.protocol import CachedStep

logger = logging.getLogger(__name__)


class DispatchedStep(NamedTuple):
    """A step the host has dispatched. `dispatched_at` is on the waiter's clock."""

    output: Any
    dispatched_at: float
    compiled: bool
    flops: float | None
    moved_bytes: float | None
    kind: str
    cached: CachedStep | None = None


def as_it_was(step: DispatchedStep, reading: AbstractContextManager[None]) -> DispatchedStep:
    """The finished step, of the kind and cost that the device has decided.

    Where that cannot be read, which `reading` guards, what it has cost is not known.
    """
    if step.cached is None:
        return step
    skipped, flops, moved_bytes, if_some = step.cached
    parts = None
    with reading:
        parts = truths(skipped)
    if not parts:
        return step._replace(flops=None, moved_bytes=None)
    if all(parts):
        return step._replace(kind=CACHED, flops=flops, moved_bytes=moved_bytes)
    if any(parts) and if_some is not None:
        return step._replace(flops=if_some[0], moved_bytes=if_some[1])
    return step


class StepWaiter:
    """Waits for the steps of one stage, in order, in a thread that lives from the first step to `finish`.

    `on_done(step, finished_at, finite)` is called in that thread. The first error of the device ends the
    recording; `finish` returns it.
    """

    def __init__(
        self,
        on_done: Callable[[DispatchedStep, float, bool | None], None],
        clock: Callable[[], float],
        guard: Guard,
    ) -> None:
        self._on_done = on_done
        self._clock = clock
        self._guard = guard
        self._reading = guard("whether a step's output is finite could not be read")
        self._recording = guard("a step could not be recorded")
        self._queue: SimpleQueue[DispatchedStep | None] = SimpleQueue()
        self._newest: Any = None
        self._thread: threading.Thread | None = None
        self._threadless = False
        self._error: Exception | None = None

    def add(self, step: DispatchedStep) -> None:
        """Enqueues the step, then waits for the one before it: no more than this one is unfinished.

        The host waits for the device itself, not for the thread, so nothing that listens can delay it.
        Raises the device's error of the step before, and TypeError for an output that cannot be waited for.
        """
        check_can_wait(step.output)
        if self._thread is None and not self._threadless:
            self._start()
        if self._thread is not None:
            self._queue.put(step)
        previous, self._newest = self._newest, step.output
        wait_for(previous)

    def finish(self, timeout: float | None = None) -> Exception | None:
        """Waits for the steps still in flight, at most `timeout` seconds, and ends the thread."""
        newest, self._newest = self._newest, None
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(timeout)
            if self._thread.is_alive():
                logger.warning("steps are still running on the device; their times are not recorded")
        elif self._threadless and timeout is None:
            try:
                wait_for(newest)
            except Exception as error:  # noqa: BLE001 - whatever the device raises is returned
                self._error = error
        return self._error

    def _start(self) -> None:
        """A system that has no thread left lets the run go on, without the times of its steps."""
        thread = threading.Thread(target=self._run, name="crystools-tpu-steps", daemon=True)
        self._threadless = True
        with self._guard("the steps of a stage cannot be timed"):
            thread.start()
            self._thread, self._threadless = thread, False

    def _run(self) -> None:
        while (step := self._queue.get()) is not None:
            try:
                wait_for(step.output)
            except Exception as error:  # noqa: BLE001 - whatever the device raises, `finish` returns
                self._error = error
                return
            finished_at, finite = self._clock(), None
            with self._reading:
                finite = truth(step.output)
            with self._recording:
                self._on_done(step, finished_at, finite)


def check_can_wait(output: Any) -> None:
    """Raises TypeError for what is neither a jax array nor a `torch.cuda.Event` nor None."""
    if output is None or hasattr(output, "block_until_ready") or hasattr(output, "synchronize"):
        return
    raise TypeError(
        f"a step was reported with a {type(output).__name__}, which cannot be waited for: "
        "pass a small jax array that the step computed, a torch.cuda.Event, or None"
    )


def wait_for(output: Any) -> None:
    """Blocks until `output` is computed; None is already done."""
    if hasattr(output, "block_until_ready"):
        output.block_until_ready()
    elif output is not None:
        output.synchronize()


def truth(output: Any) -> bool | None:
    """The value of a computed array of one boolean; None for anything else."""
    is_one_bool = str(getattr(output, "dtype", None)) == "bool" and output.size == 1
    return bool(output) if is_one_bool else None


def truths(output: Any) -> list[bool] | None:
    """The values of a computed array of booleans; None for anything else."""
    if (single := truth(output)) is not None:
        return [single]
    return list(output.ravel().tolist()) if str(getattr(output, "dtype", None)) == "bool" else None
