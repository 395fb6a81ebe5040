"""A bounded capture of jax's own profiler: the next steps of a run, with its stages and steps annotated.

Nothing is captured unless somebody asked. Then the capture begins between two steps of a stage, where one was
handed to the device and the next is about to be, and ends when the device has finished the last of its steps,
or with the run.
Starting the profiler takes the run's thread some milliseconds; stopping it and writing the files, which takes
seconds, happens in a thread of its own. What goes wrong is logged and shown, and never breaks the run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from crystools_tpu.telemetry.events import CaptureStatus, ProfileCapture, ProfileChanged, StageName
from crystools_tpu.telemetry.guard import Guard
from crystools_tpu.telemetry.pubsub import Bus
from crystools_tpu.telemetry.text import describe_error

logger = logging.getLogger(__name__)

MAX_STEPS: Final = 50
DEFAULT_STEPS: Final = 5
_BUSY: Final = {
    CaptureStatus.WAITING: "a capture waits for the next step of a run: start a run, and it begins",
    CaptureStatus.CAPTURING: "a capture is being made: ask again when it is written",
}


class CaptureBusyError(Exception):
    """A capture was asked for while one waits or is being made."""


class Profiler:
    """Makes one capture at a time. `armed` is all that a run looks at while nobody has asked for one."""

    def __init__(self, bus: Bus) -> None:
        self.armed = False
        self._bus = bus
        self._lock = threading.RLock()
        self._capture = ProfileCapture(CaptureStatus.IDLE, None, 0, None, None, None)
        self._folder = Path()
        self._only: StageName | None = None
        self._stage, self._step = contextlib.ExitStack(), contextlib.ExitStack()
        self._last_dispatched: tuple[int, int] | None = None
        self._last_done = (-1, -1)
        self._writer: threading.Thread | None = None

    @property
    def capture(self) -> ProfileCapture:
        """The capture that was asked for last, as it stands."""
        return self._capture

    def request_capture(
        self, folder: Path, steps: int = DEFAULT_STEPS, stage: StageName | None = None
    ) -> ProfileCapture:
        """Captures the next `steps` steps of the run that is the first to be between two of them.

        With `stage`, of a stage of that name alone: the capture ends with it. The files go to
        `folder/plugins/profile/SESSION`, where TensorBoard and xprof look for them. Raises ValueError for
        `steps` out of range, CaptureBusyError while a capture waits or is being made, and OSError for a
        folder that cannot be made.
        """
        if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MAX_STEPS:
            raise ValueError(f"steps must be a whole number from 1 to {MAX_STEPS}")
        with self._lock:
            if busy := _BUSY.get(self._capture.status):
                raise CaptureBusyError(busy)
            folder.mkdir(parents=True, exist_ok=True)
            self._folder, self._only = folder, stage
            self._change(ProfileCapture(CaptureStatus.WAITING, steps, 0, None, None, None))
            self.armed = True
        return self._capture

    def wait(self, timeout: float | None = None) -> ProfileCapture:
        """Waits until a capture that has ended is written; how it stands then."""
        writer = self._writer
        if writer is not None:
            writer.join(timeout)
        return self._capture

    def stage_began(self, run_id: str, stage: StageName, steps_total: int | None) -> None:
        """A stage of the run began, in this thread."""
        with self._surviving():
            if self._captures(run_id) and self._last_dispatched is None:
                self._annotate_stage(stage)
                if steps_total:
                    self._annotate_step(stage, 0)

    def step_dispatched(
        self, run_id: str, position: tuple[int, int], stage: StageName, steps_total: int | None
    ) -> None:
        """The run handed a step to the device: `position` is its stage's and its own number."""
        with self._surviving():
            number = position[1]
            if self._capture.status is CaptureStatus.WAITING:
                if number + 1 != steps_total and self._only in (None, stage):
                    self._start(run_id)
                    self._annotate_stage(stage)
            elif self._captures(run_id) and self._last_dispatched is None:
                self._step.close()
                count = self._capture.steps_captured + 1
                self._change(dataclasses.replace(self._capture, steps_captured=count))
                if count == self._capture.steps:
                    self._last_dispatched = position
                    self._stage.close()
                    self._stop_if_done()
            if self._captures(run_id) and self._last_dispatched is None and number + 1 != steps_total:
                self._annotate_step(stage, number + 1)

    def step_done(self, run_id: str, position: tuple[int, int]) -> None:
        """The device finished a step of the run. Called by the thread that waits for it."""
        with self._surviving():
            if self._captures(run_id):
                self._last_done = position
                self._stop_if_done()

    def stage_ended(self, run_id: str) -> None:
        """A stage of the run ended, its steps included, in the thread in which it began."""
        with self._surviving():
            if self._captures(run_id):
                self._step.close()
                self._stage.close()
                if self._only is not None:
                    self._stop()

    def run_ended(self, run_id: str) -> None:
        """The run ended, and with it the capture."""
        with self._surviving():
            if self._captures(run_id):
                self._stop()

    @contextlib.contextmanager
    def _surviving(self) -> Iterator[None]:
        """Whatever the profiler raises in the block ends the capture, and not the run."""
        with self._lock:
            try:
                yield
            except Exception as error:  # noqa: BLE001 - it is logged and shown
                began = self._capture.status is CaptureStatus.CAPTURING
                self._fail(error)
                if began:
                    self._discard()

    def _captures(self, run_id: str) -> bool:
        return self.armed and self._capture.run_id == run_id

    def _start(self, run_id: str) -> None:
        now = datetime.datetime.now(datetime.UTC)
        session = f"{now:%Y-%m-%dT%H-%M-%S.%f}-{run_id[:8]}"
        path = self._folder.absolute() / "plugins" / "profile" / session
        profiler = _jax_profiler()
        options = profiler.ProfileOptions()
        options.python_tracer_level = 0  # every call of every thread: slow, and not what is asked
        options.session_id = session
        profiler.start_trace(self._folder, create_perfetto_trace=True, profiler_options=options)
        self._last_dispatched, self._last_done = None, (-1, -1)
        self._change(
            dataclasses.replace(self._capture, status=CaptureStatus.CAPTURING, run_id=run_id, path=str(path))
        )

    def _stop_if_done(self) -> None:
        if self._last_dispatched is not None and self._last_done >= self._last_dispatched:
            self._stop()

    def _stop(self) -> None:
        self.armed = False
        self._in_background(self._write)

    def _in_background(self, target: Callable[[], None]) -> None:
        """Not a daemon: a process that ends waits for its capture."""
        writer = threading.Thread(target=target, name="crystools-tpu-profile")
        writer.start()
        self._writer = writer

    def _write(self) -> None:
        try:
            _jax_profiler().stop_trace()
        except Exception as error:  # noqa: BLE001 - whatever the profiler raises, the run goes on
            self._fail(error)
            return
        self._change(dataclasses.replace(self._capture, status=CaptureStatus.WRITTEN))

    def _discard(self) -> None:
        """Ends jax's own capture, so that there can be another."""
        self._stage, self._step = contextlib.ExitStack(), contextlib.ExitStack()

        def end() -> None:
            with Guard(logger)("jax's profiler could not be ended"):
                _jax_profiler().stop_trace()

        with Guard(logger)("jax's profiler could not be ended"):
            self._in_background(end)

    def _fail(self, error: Exception) -> None:
        self.armed = False
        text = describe_error(error)
        logger.warning("the profile could not be captured: %s", text)
        self._change(dataclasses.replace(self._capture, status=CaptureStatus.FAILED, path=None, error=text))

    def _change(self, capture: ProfileCapture) -> None:
        self._capture = capture
        self._bus.publish(ProfileChanged(capture))

    def _annotate_stage(self, stage: StageName) -> None:
        self._stage.enter_context(_jax_profiler().TraceAnnotation(stage))

    def _annotate_step(self, stage: StageName, number: int) -> None:
        annotation = _jax_profiler().StepTraceAnnotation(f"{stage} step", step_num=number)
        self._step.enter_context(annotation)


def _jax_profiler() -> Any:
    jax = sys.modules.get("jax")
    if jax is None:
        raise RuntimeError("this process has not loaded jax, whose profiler this is")
    return jax.profiler
