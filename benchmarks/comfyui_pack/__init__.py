"""A node pack for the benchmark: nodes that do nothing, and what the benchmark asks of ComfyUI's process.

It measures each prompt around ComfyUI's own `PromptExecutor.execute`, whether it is followed or not.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, ClassVar

from aiohttp import web

prompt_server: Any = sys.modules["server"].PromptServer.instance
routes: web.RouteTableDef = prompt_server.routes
executor: Any = sys.modules["execution"].PromptExecutor
execute = executor.execute
measured: list[tuple[float, ...]] = []
followed: list[Any] = []
in_our_calls = [0.0]
counting = [0.0]


def measured_execute(*args: Any, **kwargs: Any) -> Any:
    """Executes a prompt; its seconds, those of its thread's and the process's CPU, and those in our calls."""
    began = time.perf_counter(), time.thread_time(), time.process_time(), in_our_calls[0]
    try:
        return execute(*args, **kwargs)
    finally:
        ended = time.perf_counter(), time.thread_time(), time.process_time(), in_our_calls[0]
        measured.append(tuple(b - a for a, b in zip(began, ended, strict=True)))


executor.execute = measured_execute


def timed(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call, and how long it takes counted to ours."""

    def call_and_count(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            in_our_calls[0] += time.perf_counter() - began - counting[0]

    return call_and_count


def count_our_calls() -> None:
    """From now on, less what counting takes. All that we do in the thread that executes is in these four."""
    nothing = timed(lambda *_: None)
    for _ in range(10_000):
        nothing("node", 1, "prompt")
    counting[0], in_our_calls[0] = in_our_calls[0] / 10_000, 0.0
    prompts: Any = sys.modules["crystools_tpu.comfyui.prompts"]
    for of, name in (
        (prompts._Prompts, "hear"),
        (prompts._Handler, "start_handler"),
        (prompts._Handler, "update_handler"),
        (prompts._Handler, "finish_handler"),
    ):
        setattr(of, name, timed(getattr(of, name)))


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


@routes.post("/benchmark/count")
async def count(request: web.Request) -> web.Response:
    """Counts the time in our calls."""
    count_our_calls()
    return web.Response()


@routes.post("/benchmark/measured")
async def take_measured(request: web.Request) -> web.Response:
    """The prompts since the last time."""
    taken = measured[:]
    measured.clear()
    return web.json_response({"prompts": taken, "process_seconds": time.process_time()})


NODE_CLASS_MAPPINGS = {class_.__name__: class_ for class_ in (BenchmarkTrivial, BenchmarkEnd)}
