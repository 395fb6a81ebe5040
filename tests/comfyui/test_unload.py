"""Unload Models: ComfyUI's own, then ours, once."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from crystools_tpu.comfyui.unload import free_hbm_on_unload

RESIDENCY = "crystools_pipelines.runtime.residency"


class Log(list[str]):
    """What was called, in order."""

    def says(self, what: str, result: object = None, error: Exception | None = None) -> Callable[[], object]:
        def call() -> object:
            self.append(what)
            if error is not None:
                raise error
            return result

        return call


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def management(log: Log) -> ModuleType:
    """Stands in for `comfy.model_management`."""
    module = ModuleType("comfy.model_management")
    module.unload_all_models = log.says("comfyui", result="its result")  # type: ignore[attr-defined]
    return module


@pytest.fixture
def residency(log: Log, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Stands in for the pipelines' residency: what it does is specified with the pipelines."""
    module = ModuleType(RESIDENCY)
    module.free_all = log.says("ours")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, RESIDENCY, module)
    return module


def test_comfyui_unloads_as_ever_and_then_our_hbm_is_freed(
    management: ModuleType, residency: ModuleType, log: Log
) -> None:
    free_hbm_on_unload(management)
    assert management.unload_all_models() == "its result"
    assert log == ["comfyui", "ours"]


def test_hooked_twice_it_frees_once(management: ModuleType, residency: ModuleType, log: Log) -> None:
    free_hbm_on_unload(management)
    free_hbm_on_unload(management)
    management.unload_all_models()
    assert log == ["comfyui", "ours"]


def test_another_pack_that_wraps_the_same_function_loses_nothing_and_we_free_once(
    management: ModuleType, residency: ModuleType, log: Log
) -> None:
    free_hbm_on_unload(management)
    ours = management.unload_all_models

    def theirs() -> object:
        log.append("theirs")
        return ours()

    management.unload_all_models = theirs  # type: ignore[attr-defined]
    free_hbm_on_unload(management)
    assert management.unload_all_models() == "its result"
    assert log == ["theirs", "comfyui", "ours"]


def test_where_no_pipeline_was_imported_nothing_is(
    management: ModuleType, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, RESIDENCY, raising=False)
    free_hbm_on_unload(management)
    management.unload_all_models()
    assert log == ["comfyui"]
    assert RESIDENCY not in sys.modules


def test_an_error_of_comfyuis_own_stays_its_own_and_our_hbm_is_freed_all_the_same(
    management: ModuleType, residency: ModuleType, log: Log
) -> None:
    management.unload_all_models = log.says("comfyui", error=RuntimeError("its"))  # type: ignore[attr-defined]
    free_hbm_on_unload(management)
    with pytest.raises(RuntimeError, match="its"):
        management.unload_all_models()
    assert log == ["comfyui", "ours"]


def test_an_error_of_ours_is_logged_and_does_not_end_comfyuis_worker(
    management: ModuleType, residency: ModuleType, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    residency.free_all = log.says("ours", error=RuntimeError("deleted"))  # type: ignore[attr-defined]
    free_hbm_on_unload(management)
    assert management.unload_all_models() == "its result"
    assert caplog.messages == ["the pipelines' HBM could not be freed"]


def test_what_is_freed_is_logged_once_by_name_and_bytes(
    management: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from crystools_pipelines.runtime.residency import Identity, residency
    from crystools_pipelines.weights.loading import StatePlan
    from crystools_pipelines.weights.stored import StoredWeights

    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").touch()
    source = StoredWeights(tmp_path, "weights")
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    identity = Identity("org/model", "vae", source.identity, "build", mesh, "float32")
    shape = jax.ShapeDtypeStruct((1024,), np.float32, sharding=NamedSharding(mesh, PartitionSpec()))
    plan = StatePlan({"weight": shape}, {}, {"weight": np.zeros(1024, np.float32)})
    residency.free_all()
    residency.load(identity, source, lambda: (None, plan), in_use=lambda: False)
    free_hbm_on_unload(management)
    with caplog.at_level(logging.INFO, "crystools_pipelines"):
        management.unload_all_models()
        management.unload_all_models()
    assert caplog.messages == ["freed: vae of org/model, 8192 bytes"]
    assert residency.residents() == ()
