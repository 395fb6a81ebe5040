"""A stand-in for ComfyUI's server, and for nothing else: the real frontend, and our real routes, are in it.

It answers what the frontend asks before it shows its menu, as ComfyUI's server.py does for a user without
workflows or models and with few nodes, and serves our extension's folder as `custom_nodes` are served.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import quote

from aiohttp import web

from crystools_tpu.comfyui import NODE_CLASS_MAPPINGS, WEB_DIRECTORY
from crystools_tpu.comfyui.workflow_names import take_workflow_names
from crystools_tpu.monitor import Monitor
from crystools_tpu.server import PREFIX, mount
from crystools_tpu.server.wire import Expected
from tests.web.scenes import Scene

VERSIONS: Final = (Path(__file__).parent / "comfyui_frontends.txt").read_text().split()
FRONTENDS: Final = Path(sys.prefix) / "frontends"
EXTENSION: Final = Path(WEB_DIRECTORY)

SYSTEM: Final = {
    "os": "posix",
    "ram_total": 1,
    "ram_free": 1,
    "comfyui_version": "0.3.64",
    "required_frontend_version": "1.27.10",
    "installed_templates_version": "0",
    "required_templates_version": "0",
    "python_version": "3.12",
    "pytorch_version": "2.9",
    "embedded_python": False,
    "argv": ["main.py", "--cpu"],
}


def node(name: str, category: str, inputs: dict[str, str], outputs: dict[str, str]) -> dict[str, Any]:
    """A node as `/object_info` has it; inputs and outputs by name, with their types."""
    return {
        "input": {"required": {input_: [type_, {}] for input_, type_ in inputs.items()}},
        "input_order": {"required": list(inputs)},
        "output": list(outputs.values()),
        "output_is_list": [False] * len(outputs),
        "output_name": list(outputs),
        "name": name,
        "display_name": name,
        "description": "",
        "python_module": "nodes",
        "category": category,
        "output_node": False,
    }


def outputs_of(class_: type[Any]) -> dict[str, str]:
    """The names and types of a node's outputs."""
    return dict(zip(class_.RETURN_NAMES, class_.RETURN_TYPES, strict=True))


def timing_node(name: str) -> dict[str, Any]:
    """One of ours, with its sockets."""
    class_ = NODE_CLASS_MAPPINGS[name]
    inputs = class_.INPUT_TYPES()
    order = {kind: list(named) for kind, named in inputs.items()}
    made = node(name, class_.CATEGORY, {}, outputs_of(class_))
    return {**made, "input": inputs, "input_order": order, "output_node": name == "TPUTimingReport"}


NODES: Final = (
    node("CreateVideo", "image/video", {"images": "IMAGE", "fps": "FLOAT"}, {"VIDEO": "VIDEO"}),
    *(
        node(name, class_.CATEGORY, {}, outputs_of(class_))
        for name, class_ in NODE_CLASS_MAPPINGS.items()
        if name.endswith("VAEDecoder")
    ),
    *(
        {**node(name, class_.CATEGORY, {}, outputs_of(class_)), "input": class_.INPUT_TYPES()}
        for name, class_ in NODE_CLASS_MAPPINGS.items()
        if name in ("Wan21TPUSampler", "Wan21TPUPipeline")
    ),
    timing_node("TPUTimingReport"),
    timing_node("TPUTimingPlot"),
    node("AnotherPacksDecoder", "another", {}, {"frames": "IMAGE", "fps": "INT"}),
)
ANSWERS: Final[dict[str, Any]] = {
    "users": {"storage": "server", "migrated": True},
    "object_info": {each["name"]: each for each in NODES},
    "system_stats": {"system": SYSTEM, "devices": []},
    "queue": {"queue_running": [], "queue_pending": []},
    "history": {},
    "jobs": {"jobs": [], "pagination": {"offset": 0, "limit": 200, "total": 0, "has_more": False}},
    "features": {},
    "i18n": {},
    "embeddings": [],
    "experiment/models": [],
    "workflow_templates": {},
    "global_subgraphs": {},
    "customnode/getmappings": {},
}
SETTINGS: Final = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Workflow.ShowMissingNodesWarning": False,
    "Comfy.Workflow.ShowMissingModelsWarning": False,
    "Comfy.Minimap.Visible": False,
}


def frontend(version: str) -> Path:
    """The static folder of a version of ComfyUI's frontend."""
    return FRONTENDS / version / "comfyui_frontend_package" / "static"


class ComfyScene(Scene):
    """A scene in ComfyUI: `folder` is the clone's name in custom_nodes, `path` where a proxy puts it all."""

    def __init__(
        self, version: str, *, folder: str = "crystools-tpu", path: str = "", **options: Any
    ) -> None:
        super().__init__(prefix="", **options)
        self._static = frontend(version)
        self._folder = folder
        self._path = path
        self.settings: dict[str, Any] = {**SETTINGS, "Comfy.InstalledVersion": version}
        self.on_prompt: list[Callable[[dict[str, Any]], dict[str, Any]]] = []
        self.expected: Expected | None = None
        self.asked: list[Mapping[str, Any]] = []
        """The workflows of which somebody wanted to know what to expect."""
        self._sockets: dict[web.WebSocketResponse, asyncio.AbstractEventLoop] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}{self._path}/"

    def tell(self, kind: str, data: dict[str, Any]) -> None:
        """Sends a message to every tab, as ComfyUI does while it executes a workflow."""
        for socket, loop in self._sockets.items():
            asyncio.run_coroutine_threadsafe(socket.send_json({"type": kind, "data": data}), loop).result(10)

    def application(self, monitor: Monitor) -> web.Application:
        comfy = web.Application()
        take_workflow_names(SimpleNamespace(app=comfy, add_on_prompt_handler=self.on_prompt.append))
        served = dataclasses.replace(self.served(monitor), expect=self._expect)
        mount(comfy, [PREFIX, f"/api{PREFIX}"], served)
        comfy.add_routes(
            [
                web.get("/ws", self._websocket),
                web.get("/api/settings", self._get_settings),
                web.post("/api/settings", self._post_settings),
                web.post("/api/settings/{id}", self._post_setting),
                web.get("/api/extensions", self._extensions),
                web.get("/api/userdata", _no_files),
                web.get("/api/{name:.+}", _answer),
                web.get("/user.css", _no_css),
                web.get("/extensions/{folder}/{name}", self._extension),
                web.get("/", self._index),
                web.static("/", self._static),
            ]
        )
        if not self._path:
            return comfy
        proxy = web.Application()
        proxy.add_subapp(self._path, comfy)
        return proxy

    def _expect(self, prompt: Mapping[str, Any]) -> Expected:
        self.asked.append(prompt)
        return self.expected or Expected(None, None, None, 0, (), None, ())

    async def _index(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(self._static / "index.html")

    async def _extensions(self, request: web.Request) -> web.Response:
        files = [path.relative_to(EXTENSION).as_posix() for path in EXTENSION.rglob("*.js")]
        return web.json_response([f"/extensions/{quote(self._folder)}/{name}" for name in files])

    async def _extension(self, request: web.Request) -> web.StreamResponse:
        if request.match_info["folder"] != self._folder:
            raise web.HTTPNotFound
        return web.FileResponse(EXTENSION / request.match_info["name"])

    async def _get_settings(self, request: web.Request) -> web.Response:
        return web.json_response(self.settings)

    async def _post_settings(self, request: web.Request) -> web.Response:
        self.settings.update(await request.json())
        return web.Response()

    async def _post_setting(self, request: web.Request) -> web.Response:
        self.settings[request.match_info["id"]] = await request.json()
        return web.Response()

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json(
            {"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "a"}}
        )
        self._sockets[socket] = asyncio.get_running_loop()
        async for _ in socket:
            pass
        del self._sockets[socket]
        return socket


async def _answer(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    if name not in ANSWERS:
        raise web.HTTPNotFound
    return web.json_response(ANSWERS[name])


async def _no_files(request: web.Request) -> web.Response:
    return web.json_response([])


async def _no_css(request: web.Request) -> web.Response:
    return web.Response(content_type="text/css")
