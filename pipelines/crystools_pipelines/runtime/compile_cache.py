"""jax's persistent compilation cache, where the user has not chosen one."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache


@contextlib.contextmanager
def default_compile_cache(directory: Path | None = None) -> Iterator[None]:
    """Compiles within are kept in `directory` (`~/.cache/crystools-tpu/jax`), unless jax already has a place.

    jax has one where `JAX_COMPILATION_CACHE_DIR` is set or the caller configured it. Restored at the end.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        yield
        return
    directory = directory or Path.home() / ".cache" / "crystools-tpu" / "jax"
    jax.config.update("jax_compilation_cache_dir", str(directory))
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()
