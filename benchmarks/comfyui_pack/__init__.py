"""A node pack for the benchmark: nodes that do nothing, and what the benchmark asks of ComfyUI's process.

It measures each prompt around ComfyUI's own `PromptExecutor.execute`, whether it is followed or not.
"""

from __future__ import annotations

import sys
import time
from typing import Any, ClassVar

from aiohttp import web

prompt_server: Any = sys.modules["server"].PromptServer.instance
routes: web.RouteTableDef = prompt_server.routes
executor: Any = sys.modules["execution"].PromptExecutor
execute = executor.execute
measured: list[tuple[float, float, float]] = []
followed: list[Any] = []


def measured_execute(*args: Any, **kwargs: Any) -> Any:
    """Executes a prompt; its seconds, and those of the CPU that its thread and the whole process took."""
    began = time.perf_counter(), time.thread_time(), time.process_time()
    try:
        return execute(*args, **kwargs)
    finally:
        ended = time.perf_counter(), time.thread_time(), time.process_time()
        measured.append(tuple(b - a for a, b in zip(began, ended, strict=True)))  # type: ignore[arg-type]


executor.execute = measured_execute


class BenchmarkTrivial:
    """Hands on what it is given."""

    CATEGORY = "benchmark"
    FUNCTION = "run"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("INT",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"value": ("INT", {})}}

    def run(self, value: int) -> tuple[int]:
        return (value,)


class BenchmarkEnd(BenchmarkTrivial):
    """The last of them."""

    OUTPUT_NODE = True
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ()

    def run(self, value: int) -> tuple[()]:  # type: ignore[override]
        return ()


@routes.post("/benchmark/follow")
async def follow(request: web.Request) -> web.Response:
    """From now on prompts are followed, or not, by whether our method or ComfyUI's own is there."""
    if not followed:
        followed.append(executor.add_message)
    ours = followed[0]
    executor.add_message = ours if await request.json() else ours.__wrapped__
    return web.Response()


@routes.post("/benchmark/measured")
async def take_measured(request: web.Request) -> web.Response:
    """The prompts since the last time."""
    taken = measured[:]
    measured.clear()
    return web.json_response({"prompts": taken, "process_seconds": time.process_time()})


NODE_CLASS_MAPPINGS = {class_.__name__: class_ for class_ in (BenchmarkTrivial, BenchmarkEnd)}
