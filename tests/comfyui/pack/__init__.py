"""A node pack for the tests of the real ComfyUI: nodes, and routes that look into the process."""

from __future__ import annotations

import gc
import sys
import threading
from pathlib import Path
from typing import Any, ClassVar

from aiohttp import web

from . import workflow_nodes

routes: web.RouteTableDef = sys.modules["server"].PromptServer.instance.routes
resume = threading.Event()
mended: dict[str, Any] = {}


class Generation:
    """What a model's node does, with a tiny Wan2.1 and one frame."""

    FUNCTION = "generate"

    def generate(self, checkpoint: str, seed: int, steps: int) -> tuple[dict[str, Any]]:
        from crystools_pipelines.run import generate
        from crystools_pipelines.wan.wan21_t2v.request import Wan21Request
        from crystools_tpu import telemetry

        request = Wan21Request(
            prompt="a cat",
            height=32,
            width=32,
            num_frames=1,
            num_inference_steps=steps,
            guidance_scale=1.0,
            seed=seed,
        )
        return (telemetry.to_wire(generate(request, checkpoint=Path(checkpoint), devices=1).report),)


class TinyGeneration:
    """The node. Ours may be loaded after this pack, so what it needs of it waits for the first execution."""

    CATEGORY = "test"
    FUNCTION = "generate"
    RETURN_TYPES: ClassVar = ("TPU_TIMING",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"checkpoint": ("STRING", {}), "seed": ("INT", {}), "steps": ("INT", {})}}

    def generate(self, **inputs: Any) -> Any:
        from crystools_tpu.comfyui.nodes import adapted

        return adapted(Generation)().generate(**inputs)


@routes.get("/test/hbm")
async def hbm(request: web.Request) -> web.Response:
    """What is in the devices' memory, by the pipelines' books and by jax's own."""
    import jax

    residency = sys.modules["crystools_pipelines.runtime.residency"].residency
    gc.collect()
    return web.json_response(
        {
            "residents": [resident.component for resident in residency.residents()],
            "resident_bytes": sum(sum(r.device_bytes.values()) for r in residency.residents()),
            "live_bytes": sum(array.nbytes for array in jax.live_arrays()),
        }
    )


@routes.post("/test/hang")
async def hang(request: web.Request) -> web.Response:
    """From now on the host's source answers no more, until /test/resume."""
    from crystools_tpu.sources.host import HostSource

    read = HostSource.read

    def hanging(self: HostSource) -> Any:
        resume.wait()
        return read(self)

    HostSource.read = hanging  # type: ignore[method-assign]
    return web.Response()


@routes.post("/test/resume")
async def go_on(request: web.Request) -> web.Response:
    """Ends the hanging."""
    resume.set()
    return web.Response()


@routes.post("/test/break")
async def break_handlers(request: web.Request) -> web.Response:
    """From now on our handlers fail, until /test/mend."""
    from crystools_tpu.telemetry import WorkflowRun

    def fails(*_: Any) -> None:
        raise OSError("broken by a test")

    for name in ("node_started", "node_progressed", "node_finished", "finish"):
        mended.setdefault(name, getattr(WorkflowRun, name))
        setattr(WorkflowRun, name, fails)
    return web.Response()


@routes.post("/test/mend")
async def mend_handlers(request: web.Request) -> web.Response:
    """Ends the failing."""
    from crystools_tpu.telemetry import WorkflowRun

    for name, method in mended.items():
        setattr(WorkflowRun, name, method)
    return web.Response()


NODE_CLASS_MAPPINGS = {"TinyGeneration": TinyGeneration, **workflow_nodes.NODE_CLASS_MAPPINGS}
