"""Attributes jax's compiles to the stage that caused them, through jax.monitoring.

jax calls its listeners in the thread that compiles, so a context variable names the stage. The facts
about the events (what fires on a cache hit, what nests) are in the comments below; they were read off
jax 0.10.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

from crystools_tpu.telemetry.events import CompileCache, CompileRecord
from crystools_tpu.telemetry.guard import Guard

# jax guards neither its listeners nor its loggers: an error of ours would become one of the compile.
_guard = Guard(logging.getLogger(__name__))
_NOT_RECORDED = "a compile could not be recorded"

_TRACE = "/jax/core/compile/jaxpr_trace_duration"
_LOWER = "/jax/core/compile/jaxpr_to_mlir_module_duration"
_BACKEND = "/jax/core/compile/backend_compile_duration"
_CACHE_HIT = "/jax/compilation_cache/cache_hits"

# What jax logs under explain_cache_misses: the first names the reason, the others are about the disk cache.
_EXPLAINING_LOGGERS = (
    "jax._src.interpreters.partial_eval",
    "jax._src.compiler",
    "jax._src.compilation_cache",
)
_EXPLANATIONS = ("CACHE MISS", "persistent cache entry", "to persistent compilation cache")


class CompileLog:
    """The compiles of one stage. `on_compile` is called in the compiling thread after each.

    `unix_seconds` is the time of day, for the records.
    """

    def __init__(
        self,
        on_compile: Callable[[CompileRecord], None],
        clock: Callable[[], float],
        unix_seconds: Callable[[], float],
    ) -> None:
        self._on_compile = on_compile
        self._clock = clock
        self._unix_seconds = unix_seconds
        self._spans: list[tuple[float, float]] = []
        self._hit = False
        self._reason: str | None = None
        self._caches: set[CompileCache] = set()
        self.count = 0

    @property
    def seconds(self) -> float:
        """Trace, lowering and backend time; what overlaps (a trace within a trace) counts once."""
        return sum(end - start for start, end in self._spans)

    @property
    def cache(self) -> CompileCache | None:
        """The worst result of the cache over all compiles; None without one."""
        return worst_cache(self._caches)

    def explain(self, reason: str) -> None:
        """Keeps jax's explanation for the compile that follows it."""
        self._reason = reason

    def hit(self) -> None:
        """Notes that the compile that follows is in the cache."""
        self._hit = True

    def duration(self, name: str, seconds: float, function: str | None) -> None:
        """Takes a duration of jax.monitoring, which is reported as it ends."""
        if name not in (_TRACE, _LOWER, _BACKEND):
            return
        now = self._clock()
        if not math.isnan(now):
            self._add_span(now - seconds, now)
        if name == _BACKEND:  # fires on a cache hit too: then it is the retrieval
            cache = CompileCache.HIT if self._hit else _cache_without_hit()
            record = CompileRecord(function, self._unix_seconds(), seconds, cache, self._reason)
            self._caches.add(cache)
            self._hit, self._reason = False, None
            self.count += 1
            self._on_compile(record)

    def _add_span(self, start: float, end: float) -> None:
        while self._spans and self._spans[-1][1] > start:
            start = min(start, self._spans.pop()[0])
        self._spans.append((start, end))


def worst_cache(caches: Collection[CompileCache | None]) -> CompileCache | None:
    """`miss` if any compile missed, else `off` or `hit`; None without a compile."""
    order = (CompileCache.MISS, CompileCache.OFF, CompileCache.HIT)
    return next((cache for cache in order if cache in caches), None)


def recompile_reason(step: Sequence[CompileRecord]) -> str:
    """What jax said about the compiles of one step, or else what was compiled."""
    reasons = [compiled.reason for compiled in step if compiled.reason]
    return "; ".join(reasons) or ", ".join(str(compiled.function) for compiled in step)


_current: ContextVar[CompileLog | None] = ContextVar("crystools_tpu_compile_log", default=None)
_installed = False
_install_lock = threading.Lock()


@contextlib.contextmanager
def attributed_to(log: CompileLog) -> Iterator[None]:
    """Within the block, compiles of this thread go to `log`, with jax's own explanation."""
    install()
    token = _current.set(log)
    try:
        with _explaining():
            yield
    finally:
        _current.reset(token)


def install() -> None:
    """Registers the listeners once jax is loaded; does nothing before that, and nothing the second time."""
    global _installed
    with _install_lock:
        if _installed or "jax" not in sys.modules:
            return
        from jax import monitoring

        monitoring.register_event_listener(_on_event)
        monitoring.register_event_duration_secs_listener(_on_duration)
        for name in _EXPLAINING_LOGGERS:
            logging.getLogger(name).addFilter(_take_explanation)
        _installed = True


_quiet: ContextVar[bool] = ContextVar("crystools_tpu_quiet", default=False)


@contextlib.contextmanager
def _explaining() -> Iterator[None]:
    """Within the block jax explains its cache misses."""
    jax: Any = sys.modules.get("jax")
    if jax is None or jax.explain_cache_misses.value:  # the user's own choice: their log keeps the lines
        yield
        return
    token = _quiet.set(True)
    try:
        with jax.explain_cache_misses(True):
            yield
    finally:
        _quiet.reset(token)


def _take_explanation(record: logging.LogRecord) -> bool:
    """A logging filter: hands "TRACING CACHE MISS" to the stage; drops the lines only we asked for."""
    with _guard("jax's explanation of a compile could not be read"):
        message = record.getMessage()
        if any(mark in message for mark in _EXPLANATIONS):
            log = _current.get()
            if log is not None and message.startswith("TRACING CACHE MISS"):
                log.explain(_reason_of(message))
            return not _quiet.get()
    return True


def _reason_of(message: str) -> str:
    """The differing keys (`* at x, now f32[4] and before f32[3]`), or else all but the headline."""
    lines = [line.strip() for line in message.splitlines()[1:]]
    differences = [line.removeprefix("* ") for line in lines if line.startswith("* ")]
    return "; ".join(differences or lines)


def _cache_without_hit() -> CompileCache:
    import jax

    enabled = (
        jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
        and jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    )
    return CompileCache.MISS if enabled else CompileCache.OFF


def _on_event(event: str, **_: str | int) -> None:
    log = _current.get()
    if log is not None and event == _CACHE_HIT:
        log.hit()


def _on_duration(event: str, duration_secs: float, **kwargs: str | int) -> None:
    log = _current.get()
    if log is None:
        return
    with _guard(_NOT_RECORDED):
        log.duration(event, duration_secs, str(kwargs["fun_name"]) if "fun_name" in kwargs else None)
