"""Device-true step times: a waiter thread blocks on each step's output in order and stamps it.

A host clock around an asynchronous dispatch measures the dispatch. Here the host only enqueues; it waits
no more than to keep at most two steps in flight, so the device never idles and memory stays bounded.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DispatchedStep:
    """A step the host has dispatched. `dispatched_at` is on the waiter's clock."""

    output: Any
    dispatched_at: float
    compiled: bool
    flops: float | None
    moved_bytes: float | None


class StepWaiter:
    """Waits for the steps of one stage, in order, in a thread that lives from the first step to `finish`.

    `on_done(step, finished_at, finite)` is called in that thread. The first error of the device (or of
    `on_done`) ends the recording; `finish` returns it.
    """

    def __init__(
        self, on_done: Callable[[DispatchedStep, float, bool | None], None], clock: Callable[[], float]
    ) -> None:
        self._on_done = on_done
        self._clock = clock
        self._queue: SimpleQueue[DispatchedStep | None] = SimpleQueue()
        self._room = threading.Semaphore(1)
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def add(self, step: DispatchedStep) -> None:
        """Enqueues the step; returns once no more than this one is unfinished."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="crystools-tpu-steps", daemon=True)
            self._thread.start()
        self._queue.put(step)
        self._room.acquire()

    def finish(self, timeout: float | None = None) -> Exception | None:
        """Waits for the steps still in flight, at most `timeout` seconds, and ends the thread."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(timeout)
            if self._thread.is_alive():
                logger.warning("steps are still running on the device; their times are not recorded")
        return self._error

    def _run(self) -> None:
        while (step := self._queue.get()) is not None:
            if self._error is None:
                try:
                    wait_for(step.output)
                    finished_at = self._clock()
                    self._on_done(step, finished_at, truth(step.output))
                except Exception as error:  # noqa: BLE001 - whatever the device raises goes to `finish`
                    self._error = error
            self._room.release()


def wait_for(output: Any) -> None:
    """Blocks until `output` is computed: a jax array or a `torch.cuda.Event`; None is already done."""
    if output is None:
        return
    wait = getattr(output, "block_until_ready", None) or getattr(output, "synchronize", None)
    if wait is None:
        raise TypeError(
            f"a step was reported with a {type(output).__name__}, which cannot be waited for: "
            "pass a small jax array that the step computed, a torch.cuda.Event, or None"
        )
    wait()


def truth(output: Any) -> bool | None:
    """The value of a computed array of one boolean; None for anything else."""
    is_one_bool = str(getattr(output, "dtype", None)) == "bool" and output.size == 1
    return bool(output) if is_one_bool else None
