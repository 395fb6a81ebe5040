"""SIGTERM and SIGHUP end a command as Ctrl-C does; a second signal ends it at once.

Python raises in the main thread alone, and only between two of its instructions: not while a program is
compiled or the device is waited for. So a thread watches, too. Where a run goes on in spite of a signal, the
thread cancels it, does what the command has to do at its end (`unwound`), and ends the process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Final

from crystools_tpu import telemetry
from crystools_tpu.whole_file import discard_unfinished

logger = logging.getLogger(__name__)

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# A stage that was interrupted waits up to 5 s for its steps. `docker stop` kills after 10 s.
_GRACE_SECONDS: Final = 6.0
_LAST_WORDS_SECONDS: Final = 8.0

# Who starts us may hand on a signal that we had from the terminal already.
_SAME_SIGNAL_SECONDS: Final = 0.5

_stacks: list[contextlib.ExitStack] = []


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


def exit_status(error: KeyboardInterrupt) -> int:
    """What a shell gives for a program that the signal ended."""
    return 128 + (error.number if isinstance(error, Terminated) else signal.SIGINT)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """The first signal within the block raises KeyboardInterrupt in it. What is ignored stays so (nohup)."""
    raised = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal raised
        if not raised:  # the next one is the watching thread's
            raised = True
            _leave_lost_terminal()
            raise _interrupt(number)

    mine = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    thread = threading.Thread(target=_watch, args=(reader, mine), name="crystools-tpu-signals", daemon=True)
    thread.start()
    woken = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    before = {number: signal.signal(number, end) for number in mine}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None was no handler of Python's
        signal.set_wakeup_fd(woken)
        os.close(writer)
        thread.join()
        os.close(reader)


@contextlib.contextmanager
def unwound() -> Iterator[contextlib.ExitStack]:
    """A stack that is closed at the end of the block, or by the watching thread where that does not come."""
    with contextlib.ExitStack() as stack:
        _stacks.append(stack)
        try:
            yield stack
        finally:
            _stacks.remove(stack)


def _watch(reader: int, numbers: Sequence[int]) -> None:
    """Ends the process at a second signal, or where a run goes on; until the pipe's writing end is closed."""
    first = _next(reader, numbers)
    if first is None:
        return
    came = time.monotonic()
    patience: float | None = _GRACE_SECONDS
    while True:
        try:
            second = _next(reader, numbers, patience)
        except TimeoutError:
            if telemetry.history.running():
                _end_here(first)
            patience = None
            continue
        if second is None:
            return
        # A terminal that is closed gives SIGHUP twice.
        if second != signal.SIGHUP and time.monotonic() - came > _SAME_SIGNAL_SECONDS:
            os._exit(128 + second)


def _next(reader: int, numbers: Sequence[int], seconds: float | None = None) -> int | None:
    """The next of the signals, None where the block has ended. Raises TimeoutError."""
    while True:
        if not select.select([reader], [], [], seconds)[0]:
            raise TimeoutError
        number = os.read(reader, 1)
        if not number or number[0] in numbers:
            return number[0] if number else None


def _end_here(number: int) -> None:
    """Ends the process in the main thread's place, which may hold a lock: not for ever, at any rate."""
    last_words = threading.Thread(target=_last_words, args=(number,), daemon=True)
    last_words.start()
    last_words.join(_LAST_WORDS_SECONDS)
    os._exit(128 + number)


def _last_words(number: int) -> None:
    cause = _interrupt(number)
    for run in telemetry.history.running():
        run.finish(cause)
    _leave_lost_terminal()
    for stack in reversed(_stacks):
        try:
            stack.close()
        except Exception:
            logger.exception("not everything could be done at the end")
    discard_unfinished()
    print("crystools-tpu: cancelled", file=sys.stderr, flush=True)


def _interrupt(number: int) -> KeyboardInterrupt:
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(signal.Signals(number))


def _leave_lost_terminal() -> None:
    """What is still printed goes nowhere, where the terminal is gone: to write there would be an error."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
