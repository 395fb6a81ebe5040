"""Whether jax looks for a TPU: never where there is nothing to be found, always where there may be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from crystools_pipelines.runtime.platforms import use_what_is_here


@pytest.fixture(autouse=True)
def platforms() -> Iterator[None]:
    """As in a process in which nobody has said anything yet."""
    before = jax.config.values["jax_platforms"]
    jax.config.update("jax_platforms", None)
    yield
    jax.config.update("jax_platforms", before)


def test_on_a_machine_without_accelerators_there_is_the_cpu_alone(tmp_path: Path) -> None:
    (tmp_path / "vfio").mkdir()
    (tmp_path / "vfio/vfio").touch()  # the driver, with no device
    use_what_is_here({}, tmp_path, plugins=())
    assert jax.config.values["jax_platforms"] == "cpu"


@pytest.mark.parametrize("device", ["accel0", "vfio/0", "nvidia0", "nvidiactl", "dxg", "kfd"])
def test_where_there_may_be_one_jax_finds_out(device: str, tmp_path: Path) -> None:
    (tmp_path / "vfio").mkdir()
    (tmp_path / device).touch()
    use_what_is_here({}, tmp_path, plugins=())
    assert jax.config.values["jax_platforms"] is None


@pytest.mark.parametrize(
    "environ",
    [
        {"JAX_PLATFORMS": ""},
        {"JAX_PLATFORMS": "tpu"},
        {"JAX_FORCE_TPU_INIT": "1"},
        {"PJRT_NAMES_AND_LIBRARY_PATHS": "mine:/opt/mine.so"},
    ],
)
def test_what_the_user_said_stands(environ: dict[str, str], tmp_path: Path) -> None:
    use_what_is_here(environ, tmp_path, plugins=())
    assert jax.config.values["jax_platforms"] is None


def test_what_jax_itself_found_stands(tmp_path: Path) -> None:
    jax.config.update("jax_platforms", "tpu,cpu")
    use_what_is_here({}, tmp_path, plugins=())
    assert jax.config.values["jax_platforms"] == "tpu,cpu"


def test_a_plugin_is_for_something_that_we_do_not_know(tmp_path: Path) -> None:
    use_what_is_here({}, tmp_path, plugins=("a plugin of somebody",))
    assert jax.config.values["jax_platforms"] is None
