"""A tiny checkpoint that is asked for by name and missing is made: once, whole, or with one clear error."""

from __future__ import annotations

import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors import SafetensorError

from crystools_pipelines.errors import CheckpointError, RequestError
from crystools_pipelines.models import MODELS
from crystools_pipelines.tiny import on_demand
from crystools_pipelines.tiny.on_demand import make_missing, tiny_location, tiny_name


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder, which is not there yet."""
    folder = tmp_path / "data"
    monkeypatch.setenv("CRYSTOOLS_TPU_DATA_DIR", str(folder))
    return folder


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models whose checkpoints are written, in place of real ones."""
    models: list[str] = []

    def write_and_count(model: str, directory: Path) -> Path:
        models.append(model)
        return write(model, directory)

    monkeypatch.setattr(on_demand, "write_tiny_checkpoint", write_and_count)
    return models


def write(model: str, directory: Path) -> Path:
    """In place of a real one."""
    directory.mkdir()
    (directory / "model_index.json").write_text(model)
    return directory


def location(model: str) -> str:
    found = tiny_location(tiny_name(model), model, "model_id")
    assert found is not None
    return found


@pytest.mark.parametrize("model", MODELS)
def test_each_model_has_one_under_its_own_name_in_the_data_folder_which_nothing_makes_yet(
    model: str, data: Path
) -> None:
    assert location(model) == str(data / "tiny-models" / f"tiny-{model}")
    assert not data.exists()


def test_other_names_are_none_of_them_and_another_models_is_refused(data: Path) -> None:
    for name in ("tiny", "tiny-", "tiny-wan", "wan2.1-t2v", "org/tiny-flux.2", ""):
        assert tiny_location(name, "flux.2", "model_id") is None
    with pytest.raises(RequestError) as refused:
        tiny_location("tiny-flux.2", "wan2.1-t2v", "model_id")
    assert str(refused.value) == (
        "model_id: tiny-flux.2 is of flux.2; give tiny-wan2.1-t2v, which is of wan2.1-t2v"
    )


def test_it_is_made_once_and_said_once(data: Path, written: list[str]) -> None:
    folder = data / "tiny-models" / "tiny-flux.2"
    assert make_missing(location("flux.2")) == (
        f"tiny-flux.2 was made in {folder}: its weights are random, and so is what it shows"
    )
    assert make_missing(location("flux.2")) is None
    assert [path.name for path in folder.parent.iterdir()] == ["tiny-flux.2"]
    assert (folder / "model_index.json").read_text() == "flux.2"
    assert written == ["flux.2"]


def test_where_a_checkpoint_is_elsewhere_nothing_is_made(
    data: Path, written: list[str], tmp_path: Path
) -> None:
    for elsewhere in (str(tmp_path / "tiny-flux.2"), "org/tiny-flux.2", "org/name", str(tmp_path)):
        assert make_missing(elsewhere) is None
    assert written == []


def test_prompts_at_the_same_time_make_it_once(data: Path, written: list[str]) -> None:
    begun = threading.Barrier(4)

    def make() -> str | None:
        begun.wait()
        return make_missing(location("flux.2"))

    with ThreadPoolExecutor(4) as pool:
        said = [future.result() for future in [pool.submit(make) for _ in range(4)]]
    assert len([news for news in said if news is not None]) == len(written) == 1


def test_one_that_another_process_makes_meanwhile_is_taken(
    data: Path, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(model: str, directory: Path) -> Path:
        write(model, Path(location(model)))
        return write(model, directory)

    monkeypatch.setattr(on_demand, "write_tiny_checkpoint", overtaken)
    assert make_missing(location("flux.2")) is None
    assert [path.name for path in (data / "tiny-models").iterdir()] == ["tiny-flux.2"]


FULL = "Error while serializing: I/O error: No space left on device (os error 28)"


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), "No space left on device"),
        (OSError(errno.EROFS, "Read-only file system", "/data/x"), "Read-only file system"),
        (SafetensorError(FULL), FULL),
    ],
)
def test_a_disk_that_takes_none_is_one_clear_error_and_leaves_nothing(
    data: Path, written: list[str], monkeypatch: pytest.MonkeyPatch, error: Exception, why: str
) -> None:
    def fail(model: str, directory: Path) -> Path:
        write(model, directory)
        raise error

    monkeypatch.setattr(on_demand, "write_tiny_checkpoint", fail)
    with pytest.raises(CheckpointError) as refused:
        make_missing(location("flux.2"))
    assert str(refused.value) == (
        f"tiny-flux.2 could not be made in {data / 'tiny-models'}: {why}; make room, or set "
        "CRYSTOOLS_TPU_DATA_DIR to a folder that can be written to"
    )
    assert list((data / "tiny-models").iterdir()) == []
