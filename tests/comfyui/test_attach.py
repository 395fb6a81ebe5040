"""What `attach` does to a ComfyUI, and that it does nothing where there is none."""

from __future__ import annotations

import logging
import pwd
import tempfile
import threading
from pathlib import Path
from types import ModuleType

import pytest
from aiohttp.test_utils import TestClient, TestServer

from crystools_tpu import comfyui
from crystools_tpu.comfyui import attach
from crystools_tpu.open_pages import Page, open_page

from .conftest import StandIn

PREFIXES = ("/crystools-tpu", "/api/crystools-tpu")


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("crystools-tpu")]


@pytest.mark.parametrize("modules", [{}, {"server": ModuleType("server")}])
def test_without_comfyui_nothing_happens(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    """Whatever else is called `server` in this process is left alone."""
    assert attach(tmp_path, modules) == comfyui.WEB_DIRECTORY
    assert all(vars(module).get("PromptServer") is None for module in modules.values())


def test_the_page_imports_one_small_file_and_the_rest_is_served_by_the_panel() -> None:
    """ComfyUI imports every .js below the folder, which is served under the name of the clone."""
    assert [path.name for path in Path(comfyui.WEB_DIRECTORY).rglob("*.js")] == ["crystools-tpu.js"]


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_the_panel_answers_on_comfyuis_server(stand_in: StandIn, prefix: str) -> None:
    attach(stand_in.folder("crystools-tpu"), stand_in.modules())
    async with TestClient(TestServer(stand_in.app)) as client:
        assert (await client.get(f"{prefix}/api/health")).status == 200
        assert (await client.get(f"{prefix}/")).status == 200
        assert "crystools_tpu_build_info" in await (await client.get(f"{prefix}/metrics")).text()


async def test_nothing_is_sampled_and_no_thread_runs_until_somebody_listens(stand_in: StandIn) -> None:
    before = our_threads()  # of another test's workflows
    attach(stand_in.folder("crystools-tpu"), stand_in.modules())
    async with TestClient(TestServer(stand_in.app)) as client:
        health = await (await client.get("/crystools-tpu/api/health")).json()
        assert health["samples_total"] == 0
        assert set(our_threads()) <= set(before)
        async with client.ws_connect("/crystools-tpu/ws") as socket:
            while (await socket.receive_json())["type"] != "snapshot":
                pass
            assert "crystools-tpu-monitor" in our_threads()


async def test_a_simulated_machine_is_marked_on_every_surface(stand_in: StandIn) -> None:
    folder = stand_in.folder("crystools-tpu")
    attach(folder, stand_in.modules(), {"CRYSTOOLS_TPU_SIMULATE": "v6e-8"})
    async with TestClient(TestServer(stand_in.app)) as client:
        async with client.ws_connect("/crystools-tpu/ws") as socket:
            hello = await socket.receive_json()
            assert (hello["type"], hello["simulated"]) == ("hello", "v6e-8")
            while not (message := await socket.receive_json()).get("chips"):
                pass
            assert (message["simulated"], len(message["chips"])) == (True, 8)
        metrics = await (await client.get("/crystools-tpu/metrics")).text()
        readings = [line for line in metrics.splitlines() if line.startswith("crystools_tpu_chip")]
        assert readings
        assert all('simulated="v6e-8"' in line for line in readings)


async def test_a_machine_that_cannot_be_simulated_is_one_line_in_the_log_and_loses_nothing(
    stand_in: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    attach(stand_in.folder("crystools-tpu"), stand_in.modules(), {"CRYSTOOLS_TPU_SIMULATE": "v9-8"})
    (line,) = caplog.messages
    assert line.startswith("CRYSTOOLS_TPU_SIMULATE: ")
    assert "v6e-4 to v6e-256" in line
    assert line.endswith("; this machine is shown instead")
    async with TestClient(TestServer(stand_in.app)) as client:
        health = await (await client.get("/crystools-tpu/api/health")).json()
        assert health["simulated"] is None


@pytest.mark.parametrize(("header", "status"), [(None, 403), ("https://app.example", 200), ("*", 200)])
async def test_another_origin_is_let_in_as_far_as_enable_cors_header_says(
    stand_in: StandIn, header: str | None, status: int
) -> None:
    attach(stand_in.folder("crystools-tpu"), stand_in.modules(enable_cors_header=header))
    async with TestClient(TestServer(stand_in.app)) as client:
        answer = await client.get("/crystools-tpu/api/runs", headers={"Origin": "https://app.example"})
        assert answer.status == status


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({"listen": "127.0.0.1", "port": 8188}, "http://127.0.0.1:8188/crystools-tpu/"),
        ({"listen": "0.0.0.0,::", "port": 80}, "http://localhost:80/crystools-tpu/"),
        ({"listen": "::1", "port": 8188}, "http://[::1]:8188/crystools-tpu/"),
        (
            {"listen": "tpu", "port": 1, "tls_keyfile": "k", "tls_certfile": "c"},
            "https://tpu:1/crystools-tpu/",
        ),
        ({"listen": None, "port": None}, None),
    ],
)
async def test_commands_can_say_where_the_panel_is(
    stand_in: StandIn, tmp_path: Path, options: dict[str, object], url: str | None
) -> None:
    environ = {"CRYSTOOLS_TPU_DATA_DIR": str(tmp_path)}
    attach(stand_in.folder("crystools-tpu"), stand_in.modules(**options), environ)  # type: ignore[arg-type]
    async with TestClient(TestServer(stand_in.app)):
        assert open_page(environ, answers=lambda url: True) == (url and Page(url, needs_token=False))
    assert open_page(environ, answers=lambda url: True) is None


def test_a_second_folder_changes_nothing_and_is_named(
    stand_in: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    clone, installed = stand_in.folder("clone"), stand_in.folder("crystools-tpu")
    modules = stand_in.modules()
    assert attach(clone, modules) == comfyui.WEB_DIRECTORY
    routes = len(stand_in.app.router.routes())
    assert attach(installed, modules) is None
    assert len(stand_in.app.router.routes()) == routes
    assert caplog.messages == [f"crystools-tpu is here twice: remove one of {clone} and {installed}"]


@pytest.mark.parametrize("name", ["ComfyUI-Crystools", "comfyui-crystools"])
def test_the_original_beside_us_is_a_hint_in_the_log(
    stand_in: StandIn, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    stand_in.folder(name)
    with caplog.at_level(logging.INFO):
        attach(stand_in.folder("crystools-tpu"), stand_in.modules())
    hint = f"crystools-tpu: {name} is here too, and both work; remove it to have one monitor"
    assert caplog.record_tuples == [("crystools_tpu.comfyui.attach", logging.INFO, hint)]


def test_a_clone_of_ours_under_that_name_is_no_other(
    stand_in: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        attach(stand_in.folder("ComfyUI-Crystools"), stand_in.modules())
    assert caplog.messages == []


async def test_the_pack_is_imported_for_a_user_without_a_home(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(uid: int) -> object:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("HOME")
    assert attach(stand_in.folder("crystools-tpu"), stand_in.modules(), {}) == comfyui.WEB_DIRECTORY
    async with TestClient(TestServer(stand_in.app)) as client:
        assert (await client.get("/crystools-tpu/api/runs")).status == 200
