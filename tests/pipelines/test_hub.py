"""A checkpoint of the hub: asked for once a run, downloaded in a stage of its own, or refused in one line."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import huggingface_hub.constants
import jax
import numpy as np
import pytest
from diffusers import UniPCMultistepScheduler

from crystools_pipelines.errors import CheckpointError, RequestError
from crystools_pipelines.parallel.mesh import make_mesh
from crystools_pipelines.run import started_run
from crystools_pipelines.runtime.multistep import Schedule
from crystools_pipelines.runtime.pipeline import Phase
from crystools_pipelines.wan.pipeline import Prepared
from crystools_pipelines.wan.wan21_t2v.pipeline import PIPELINE
from crystools_pipelines.weights import hub as hub_module
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_pipelines.weights.tensor_files import read_header
from crystools_tpu import telemetry
from crystools_tpu.telemetry import BytesTransferred, StageName, StageReport
from tests.pipelines.hub_server import COMMIT, Hub, ask, serving

MESH = make_mesh(jax.devices()[:1], branches=1, widths=(8,))
SCHEDULE = Schedule(np.zeros(4, np.float32), np.zeros((4, 3, 6), np.float32))
PARTS = PIPELINE.parts(MESH, Prepared(UniPCMultistepScheduler(), SCHEDULE, (Phase("transformer", 4, 5.0),)))
CONFIGURATIONS = {
    "model_index.json",
    "transformer/config.json",
    "text_encoder/config.json",
    "vae/config.json",
}
SAYS = "X-Error-Code"


class Served(NamedTuple):
    """The hub on this machine and what is kept of it."""

    hub: Hub
    address: str
    cache: Path


@pytest.fixture
def served(tiny_wan21: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A hub with the tiny checkpoint, and more in it than a run uses."""
    repository = Path(shutil.copytree(tiny_wan21, tmp_path / "repository", copy_function=os.link))
    (repository / "README.md").write_text("a tiny checkpoint")
    for extra in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bin"):
        (repository / "transformer" / extra).write_bytes(b"not to be downloaded")
    hub, cache = Hub(repository), tmp_path / "cache"
    with serving(hub) as address:
        ask(address, cache, monkeypatch)
        yield Served(hub, address, cache)
        _join_downloads()


def _join_downloads() -> None:
    """A cancelled download that outlived its hub would close the client that the next test shares with it."""
    for thread in threading.enumerate():
        if thread.name.startswith("crystools-tpu-download"):
            thread.join()


def fetch(on_step: Callable[[], None] = lambda: None) -> tuple[StageReport, ...]:
    """A run that ends before its first stage of its own; what it has reported."""
    checkpoint = Checkpoint("org/tiny")
    PIPELINE.check(checkpoint)
    with started_run("wan2.1-t2v", {}, checkpoint, MESH, on_step=on_step, parts=PARTS) as job:
        return job.run.report.stages


def refusal() -> str:
    with pytest.raises(CheckpointError) as error:
        fetch()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_a_run_uses_is_downloaded_in_a_stage_and_then_asked_for_once(served: Served) -> None:
    (stage,) = fetch()
    files = served.hub.files()
    weights = {name for name in files if name.endswith("model.safetensors")}
    used = weights | {name for name in files if name.startswith("tokenizer/")}
    assert (stage.name, stage.status) == (StageName.DOWNLOAD, telemetry.Status.SUCCEEDED)
    assert stage.bytes_total == stage.bytes_done == sum(files[name].stat().st_size for name in used)
    assert served.hub.downloaded() == used | CONFIGURATIONS
    assert len(served.hub.asked("GET /api/models/org/tiny")) == 1
    served.hub.requests.clear()
    assert fetch() == ()
    assert served.hub.asked("HEAD") + served.hub.asked("GET /org") == []
    assert len(served.hub.asked("GET /api/models/org/tiny")) == 1


def test_a_node_downloads_the_part_that_it_uses(served: Served) -> None:
    with started_run("wan2.1-t2v", {}, Checkpoint("org/tiny"), MESH, parts=[PIPELINE.decoder(MESH)]):
        pass
    assert served.hub.downloaded() == {"model_index.json", "vae/config.json"} | {
        "vae/diffusion_pytorch_model.safetensors"
    }


def test_the_files_that_an_index_names_are_downloaded(served: Served) -> None:
    folder = served.hub.folder / "vae"
    shard = "diffusion_pytorch_model-00001-of-00001.safetensors"
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / shard)
    places = dict.fromkeys(read_header(folder / shard), shard)
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "diffusion_pytorch_model.fp16-00001-of-00001.safetensors").write_bytes(b"not to be downloaded")
    fetch()
    assert {name for name in served.hub.downloaded() if name.startswith("vae/")} == {
        "vae/config.json",
        f"vae/{shard}",
        "vae/diffusion_pytorch_model.safetensors.index.json",
    }


def test_while_it_comes_bytes_rate_and_time_to_go_are_told(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last file is not there before the others were told of."""
    monkeypatch.setattr(hub_module, "_PROGRESS_SECONDS", 0.01)
    served.hub.gate = threading.Event()
    with telemetry.subscribe() as subscription:
        told: list[BytesTransferred] = []

        def on_step() -> None:
            told.extend(event for event in subscription.drain() if isinstance(event, BytesTransferred))
            if told and told[-1].bytes_done > 0:
                assert served.hub.gate is not None
                served.hub.gate.set()

        (stage,) = fetch(on_step)
        told += [event for event in subscription.drain() if isinstance(event, BytesTransferred)]
    done = [event.bytes_done for event in told]
    assert done == sorted(done)
    assert any(0 < count < done[-1] for count in done)
    assert {event.bytes_total for event in told} == {stage.bytes_total} == {done[-1]}
    assert any(event.bytes_per_second and event.eta_seconds for event in told)


def test_cancelling_does_not_wait_for_the_file(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "_PROGRESS_SECONDS", 0.01)
    served.hub.gate = threading.Event()

    def cancel() -> None:
        raise KeyboardInterrupt

    try:
        with pytest.raises(KeyboardInterrupt):
            fetch(cancel)
    finally:
        served.hub.gate.set()
    report = telemetry.history.reports()[0]
    assert [(stage.name, stage.status) for stage in report.stages] == [
        (StageName.DOWNLOAD, telemetry.Status.CANCELLED)
    ]


GATED = "org/tiny is gated: accept its terms at AT/org/tiny, then log in with `hf auth login` or set HF_TOKEN"


@pytest.mark.parametrize(
    ("beginning", "status", "headers", "message"),
    [
        ("/", 403, {SAYS: "GatedRepo"}, GATED),
        ("/org/tiny/resolve", 403, {SAYS: "GatedRepo"}, GATED),
        (f"/org/tiny/resolve/{COMMIT}/transformer/diff", 403, {SAYS: "GatedRepo"}, GATED),
        (
            "/",
            404,
            {SAYS: "RepoNotFound"},
            "AT has no repository org/tiny, or it is private: log in with `hf auth login`; check the name",
        ),
        ("/", 401, {}, "AT has no repository org/tiny, or it is private: log in with `hf auth login`; check"),
        (
            "/",
            401,
            {"X-Error-Message": "Invalid credentials in Authorization header"},
            "AT refuses the token: log in with `hf auth login`, or set HF_TOKEN to a valid one",
        ),
        ("/", 404, {SAYS: "RevisionNotFound"}, "org/tiny has no revision 'main'; give a folder"),
        ("/api", 503, {}, "org/tiny: AT cannot be reached (HfHubHTTPError: "),
    ],
)
def test_what_the_hub_refuses_is_one_line_with_the_remedy(
    served: Served,
    monkeypatch: pytest.MonkeyPatch,
    beginning: str,
    status: int,
    headers: dict[str, str],
    message: str,
) -> None:
    if "token" in message:
        monkeypatch.setenv("HF_TOKEN", "hf_not_valid")
    served.hub.refuse[beginning] = (status, headers)
    assert refusal().replace(served.address, "AT").startswith(message)


def test_with_a_token_it_is_the_token_that_may_not(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_a_token_of_another")
    served.hub.refuse["/"] = (404, {SAYS: "RepoNotFound"})
    assert "no repository org/tiny, or the token may not read it; check the name" in refusal()


def test_a_mistyped_folder_whose_parent_is_there_is_told_with_what_is_in_it(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "tinny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    served.hub.refuse["/"] = (404, {SAYS: "RepoNotFound"})
    assert refusal().endswith("; check the name, or give a folder; the folder org has tinny")


@pytest.mark.parametrize(
    "location", ["./models/wan", "../wan", "~/models", "/models/wan", "a/b/c", "wan", "", "-a/b", ".a/b"]
)
def test_what_cannot_be_a_repository_is_not_asked_for(served: Served, location: str) -> None:
    with pytest.raises(RequestError, match=r"is no folder; give one, or a hub id of the form org/name"):
        Checkpoint(location)
    assert served.hub.requests == []


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def test_offline_the_cache_is_used_without_a_word(
    served: Served, offline: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    fetch()
    served.hub.requests.clear()
    offline()
    assert fetch() == ()
    assert served.hub.requests == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


NOT_WHOLE = "org/tiny is not whole in the cache, and HF_HUB_OFFLINE is set; unset it, or give a folder"


def test_offline_without_a_cache_says_so(served: Served, offline: Callable[[], None]) -> None:
    offline()
    assert refusal() == NOT_WHOLE


@pytest.mark.parametrize(
    "lost", ["transformer/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json"]
)
def test_offline_what_is_not_whole_in_the_cache_is_named(
    served: Served, offline: Callable[[], None], lost: str
) -> None:
    fetch()
    (kept,) = served.cache.rglob(lost)
    kept.unlink()
    offline()
    said = refusal()
    assert lost.partition("/")[0] in said
    assert said.endswith(NOT_WHOLE)


def test_without_a_network_the_cache_is_used_and_that_is_one_line(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fetch()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    caplog.clear()
    assert fetch() == ()
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.startswith("org/tiny: http://127.0.0.1:9 cannot be reached (ConnectError")
    assert warning.endswith("; what is in the cache is used")
    assert "\n" not in warning


def test_without_a_network_and_a_cache_it_is_one_line(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert refusal().startswith("org/tiny: http://127.0.0.1:9 cannot be reached (ConnectError")


def test_a_disk_without_room_is_found_before_the_download(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(served.hub.folder)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    assert refusal().endswith("has room for 0.0 GB; make room, or set HF_HOME to a folder on a larger disk")
    assert not any(name.endswith(".safetensors") for name in served.hub.downloaded())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "org/tiny: no room is left in "),
        (
            RuntimeError("Data processing error: No space left on device (os error 28)"),
            "org/tiny: no room is",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/cache"),
            "org/tiny: /cache: Permission denied; set",
        ),
        (
            RuntimeError("CAS service error\nand more"),
            "cannot be reached (RuntimeError: CAS service error); check",
        ),
    ],
)
def test_what_fails_in_the_middle_is_one_line(error: Exception, message: str) -> None:
    said = hub_module.describe_failure("org/tiny", error)
    assert message in said
    assert "\n" not in said


def test_a_repository_without_safetensors_is_refused_before_anything_large_is_downloaded(
    served: Served,
) -> None:
    (served.hub.folder / "vae/diffusion_pytorch_model.safetensors").rename(
        served.hub.folder / "vae/diffusion_pytorch_model.bin"
    )
    assert refusal().endswith("; diffusion_pytorch_model.bin is pickled; give a checkpoint in safetensors")
    assert not any(name.endswith(".safetensors") for name in served.hub.downloaded())


def test_the_command_ends_with_one_line(served: Served, tmp_path: Path) -> None:
    """As it is used: with the variables of the environment, in a process of its own."""
    served.hub.refuse["/"] = (403, {SAYS: "GatedRepo"})
    small = ["--prompt", "a boat", "--out", str(tmp_path / "video.npy")]
    ended = subprocess.run(
        [sys.executable, "-m", "crystools_tpu", "generate", "wan2.1-t2v", "--checkpoint", "org/tiny", *small],
        env=os.environ | {"HF_ENDPOINT": served.address, "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"crystools-tpu: {GATED.replace('AT', served.address, 1)}\n"
