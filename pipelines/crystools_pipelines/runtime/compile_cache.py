"""jax's persistent compilation cache, where the user has not chosen one."""

import contextlib
import functools
import logging
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from crystools_tpu.data_dir import cache_dir

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def default_compile_cache(directory: Path | None = None) -> Iterator[None]:
    """Compiles within are kept in `directory` (`jax` in the user's cache), unless jax already has a place.

    jax has one where `JAX_COMPILATION_CACHE_DIR` is set or the caller configured it. Restored at the end.
    A folder that cannot be written is one warning, and nothing is kept.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        yield
        return
    directory = directory or cache_dir() / "jax"
    if (fault := _why_not_writable(directory)) is not None:
        _warn_once(directory, fault)
        yield
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        _reset_cache()


def _reset_cache() -> None:
    """Has jax drop the cache that it opened, or it would keep everybody's later compiles there.

    jax says so at INFO, the level of ComfyUI's log: a line of its insides after every node.
    """
    this_thread = threading.get_ident()
    jaxs_log = logging.getLogger(compilation_cache.reset_cache.__module__)

    def is_anothers(record: logging.LogRecord) -> bool:
        return record.thread != this_thread

    jaxs_log.addFilter(is_anothers)
    try:
        compilation_cache.reset_cache()
    finally:
        jaxs_log.removeFilter(is_anothers)


def _why_not_writable(directory: Path) -> str | None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return None
    except OSError as error:
        return error.strerror or str(error)


@functools.cache
def _warn_once(directory: Path, fault: str) -> None:
    logger.warning(
        "compiled programs are not kept, so that every process compiles them anew: %s: %s; "
        "set XDG_CACHE_HOME, or JAX_COMPILATION_CACHE_DIR, to a folder that can be written",
        directory,
        fault,
    )
