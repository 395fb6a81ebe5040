"""The user's choice of a compilation cache stands; without one there is a default, for the time of a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from crystools_pipelines.runtime.compile_cache import default_compile_cache


def cache_directory() -> str | None:
    directory: str | None = jax.config.values["jax_compilation_cache_dir"]
    return directory


@pytest.fixture
def no_cache_chosen() -> Iterator[None]:
    chosen = cache_directory()
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", chosen)


def test_the_users_directory_stands(tmp_path: Path) -> None:
    chosen = cache_directory()
    assert chosen is not None
    with default_compile_cache(tmp_path):
        assert cache_directory() == chosen
    assert cache_directory() == chosen


@pytest.mark.usefixtures("no_cache_chosen")
def test_without_a_choice_the_default_is_used_and_withdrawn(tmp_path: Path) -> None:
    with pytest.raises(KeyError), default_compile_cache(tmp_path):
        assert cache_directory() == str(tmp_path)
        raise KeyError
    assert cache_directory() is None


@pytest.mark.usefixtures("no_cache_chosen")
def test_the_default_is_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for base, folder in [
        ("", tmp_path / ".cache"),
        ("relative", tmp_path / ".cache"),
        (str(tmp_path / "scratch"), tmp_path / "scratch"),
    ]:
        monkeypatch.setenv("XDG_CACHE_HOME", base)
        with default_compile_cache():
            assert cache_directory() == str(folder / "crystools-tpu" / "jax")


def compile_anew(value: float) -> None:
    jax.jit(lambda x: x + value).lower(jnp.ones(3)).compile()


@pytest.mark.usefixtures("no_cache_chosen")
def test_what_others_compile_later_is_not_kept_in_our_folder(tmp_path: Path) -> None:
    with default_compile_cache(tmp_path):
        compile_anew(1.25)
    kept = sorted(path.name for path in tmp_path.iterdir())
    compile_anew(2.25)
    assert kept
    assert sorted(path.name for path in tmp_path.iterdir()) == kept


@pytest.mark.usefixtures("no_cache_chosen")
def test_withdrawing_it_says_nothing_in_a_log_that_shows_info(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for value in (3.25, 4.25):
        with default_compile_cache(tmp_path):
            compile_anew(value)
    assert caplog.messages == []
    compilation_cache.reset_cache()
    assert caplog.messages == ["Resetting cache at <empty>."]  # by another hand it is told as ever


@pytest.mark.usefixtures("no_cache_chosen")
def test_a_folder_that_cannot_be_written_is_one_warning_and_no_cache(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    for _ in range(3):
        with default_compile_cache(tmp_path / "file" / "jax"):
            assert cache_directory() is None
    (said,) = caplog.messages
    assert said.startswith("compiled programs are not kept, so that every process compiles them anew: ")
    assert f"{tmp_path}/file/jax: Not a directory; set XDG_CACHE_HOME" in said
