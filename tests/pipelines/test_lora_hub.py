"""A LoRA of the hub: its one file is downloaded in the stage for that, and refused in one line."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub.constants
import jax
import pytest
from safetensors.torch import save_file

from crystools_pipelines.errors import CheckpointError, RequestError
from crystools_pipelines.parallel.mesh import make_mesh
from crystools_pipelines.requests.lora import Lora
from crystools_pipelines.run import started_run
from crystools_pipelines.runtime.residency import free_all
from crystools_pipelines.wan.wan21_t2v.pipeline import PIPELINE
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_tpu.telemetry import StageName, StageReport
from tests.pipelines.hub_server import Hub, ask, serving
from tests.pipelines.lora_files import factors, peft

MESH = make_mesh(jax.devices()[:1], branches=1, widths=(8,))
Q = "blocks.0.attn1.to_q"


class Served(NamedTuple):
    """The hub on this machine, and a checkpoint on it and here."""

    hub: Hub
    checkpoint: Path


@pytest.fixture
def served(tiny_wan21: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A hub with two LoRAs in folders, and more than those."""
    repository = tmp_path / "repository"
    (repository / "low").mkdir(parents=True)
    save_file(peft(factors({Q: (128, 128)}, 1)), repository / "fast.safetensors")
    save_file(peft(factors({Q: (128, 128)}, 2)), repository / "low" / "fast.safetensors")
    (repository / "README.md").write_text("LoRAs")
    hub = Hub(repository, "org/loras")
    free_all()
    with serving(hub) as address:
        ask(address, tmp_path / "cache", monkeypatch)
        yield Served(hub, tiny_wan21)


def fetch(served: Served, location: str, checkpoint: Any = None) -> tuple[StageReport, ...]:
    """A run that ends before its first stage of its own; what it has reported."""
    source = Checkpoint(checkpoint or served.checkpoint).with_loras([Lora(location)])
    with started_run("wan2.1-t2v", {}, source, MESH, [PIPELINE.transformer(MESH)]) as job:
        assert source.weights("transformer").merged is not None
        return job.run.report.stages


def refusal(served: Served, location: str) -> str:
    with pytest.raises(RequestError) as error:
        fetch(served, location)
    assert error.value.field == "loras"
    return error.value.message


def test_the_file_that_is_named_is_downloaded_once(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    (stage,) = fetch(served, "org/loras/low/fast.safetensors")
    size = (served.hub.folder / "low" / "fast.safetensors").stat().st_size
    assert (stage.name, stage.bytes_total, stage.bytes_done) == (StageName.DOWNLOAD, size, size)
    assert served.hub.downloaded() == {"low/fast.safetensors"}
    served.hub.requests.clear()
    assert fetch(served, "org/loras/low/fast.safetensors") == ()
    assert served.hub.requests == ["GET /api/models/org/loras/revision/main"]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert fetch(served, "org/loras/low/fast.safetensors") == ()
    assert fetch(served, "org/loras") == ()  # of the cache it is the only one
    assert refusal(served, "org/loras/fast.safetensors") == (
        "org/loras has no fast.safetensors; it has low/fast.safetensors. org/loras is not whole in the "
        "cache, and HF_HUB_OFFLINE is set; unset it, or give a file"
    )


def test_of_several_files_one_must_be_named_unless_one_is_called_as_usual(served: Served) -> None:
    assert refusal(served, "org/loras") == (
        "org/loras has 2 .safetensors files; name one: fast.safetensors, low/fast.safetensors"
    )
    assert refusal(served, "org/loras/slow.safetensors") == (
        "org/loras has no slow.safetensors; it has fast.safetensors, low/fast.safetensors"
    )
    assert refusal(served, "org/loras/README.md") == (
        "org/loras/README.md is no .safetensors file; give a LoRA in safetensors"
    )
    usual = "pytorch_lora_weights.safetensors"
    shutil.copy(served.hub.folder / "fast.safetensors", served.hub.folder / usual)
    (stage,) = fetch(served, "org/loras")
    assert stage.name == StageName.DOWNLOAD
    assert served.hub.downloaded() == {usual}


def test_it_may_be_beside_the_checkpoint(served: Served) -> None:
    shutil.copytree(served.checkpoint, served.hub.folder, dirs_exist_ok=True)
    (stage,) = fetch(served, "org/loras/fast.safetensors", "org/loras")
    weights = served.hub.folder / "transformer" / "diffusion_pytorch_model.safetensors"
    lora = served.hub.folder / "fast.safetensors"
    assert stage.bytes_total == stage.bytes_done == weights.stat().st_size + lora.stat().st_size


def test_one_that_does_not_fit_is_refused_once_it_is_here(served: Served) -> None:
    save_file(peft(factors({"blocks.9.ffn": (8, 8)})), served.hub.folder / "fast.safetensors")
    assert refusal(served, "org/loras/fast.safetensors") == (
        "org/loras/fast.safetensors has transformer.blocks.9.ffn.lora_A.weight, which fits no parameter of "
        "this model; give a LoRA made for it"
    )


def test_what_keeps_us_from_it_is_said(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        "has no repository org/none, or it is private: log in with `hf auth login`; check the name, or "
        in (said := refusal(served, "org/none/fast.safetensors"))
    )
    assert said.endswith("or give a file")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 9, 0))
        with pytest.raises(
            CheckpointError, match=r"^org/loras: 0\.0 GB are still to be downloaded, and .*make room"
        ):
            fetch(served, "org/loras/fast.safetensors")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert refusal(served, "org/loras/fast.safetensors") == (
        "org/loras is not whole in the cache, and HF_HUB_OFFLINE is set; unset it, or give a file"
    )
