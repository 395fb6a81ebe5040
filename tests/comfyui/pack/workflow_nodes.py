"""Nodes of another's, of every kind that ComfyUI executes in its own way; numbers go through them."""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar


class _Node:
    CATEGORY = "test"
    FUNCTION = "run"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("INT",)
    INPUTS: ClassVar[dict[str, Any]] = {"value": ("INT", {"forceInput": True})}
    OPTIONAL: ClassVar[dict[str, Any]] = {}

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": cls.INPUTS, "optional": cls.OPTIONAL}


class TestNumber(_Node):
    """A constant, or what it is given."""

    INPUTS: ClassVar = {"value": ("INT", {})}

    def run(self, value: int) -> tuple[int]:
        return (value,)


class TestResult(_Node):
    """What a workflow gives."""

    OUTPUT_NODE = True

    def run(self, value: int) -> dict[str, Any]:
        return {"ui": {"text": [str(value)]}, "result": (value,)}


class TestWait(_Node):
    """Takes its time, prints, and adds one."""

    INPUTS: ClassVar = {**_Node.INPUTS, "seconds": ("FLOAT", {"default": 0.0})}

    def run(self, value: int, seconds: float) -> tuple[int]:
        print("a node prints")
        time.sleep(seconds)
        return (value + 1,)


class TestAllocates(_Node):
    """Holds so much of the memory of ComfyUI's device for a moment."""

    INPUTS: ClassVar = {**_Node.INPUTS, "mebibytes": ("INT", {})}

    def run(self, value: int, mebibytes: int) -> tuple[int]:
        import comfy.model_management
        import torch

        device = comfy.model_management.get_torch_device()
        held = torch.ones(mebibytes << 20, dtype=torch.uint8, device=device)
        return (value + int(held[0]),)


class TestProgress(_Node):
    """Shows how it gets on, in steps of so many seconds each."""

    INPUTS: ClassVar = {**_Node.INPUTS, "steps": ("INT", {}), "seconds": ("FLOAT", {})}

    def run(self, value: int, steps: int, seconds: float) -> tuple[int]:
        import comfy.utils

        bar = comfy.utils.ProgressBar(steps)
        for _ in range(steps):
            time.sleep(seconds)
            bar.update(1)
        return (value + 1,)


class TestRaises(_Node):
    """Cannot."""

    def run(self, value: int) -> tuple[int]:
        raise ValueError(f"{value} is no number for it")


class TestBlocks(_Node):
    """Lets nothing that depends on it be executed."""

    def run(self, value: int) -> tuple[Any]:
        from comfy_execution.graph import ExecutionBlocker

        return (ExecutionBlocker(None),)


class TestLazy(_Node):
    """Asks for its second input where the first is not 0."""

    INPUTS: ClassVar = {**_Node.INPUTS, "other": ("INT", {"forceInput": True, "lazy": True})}

    def check_lazy_status(self, value: int, other: int | None = None) -> list[str]:
        return ["other"] if value and other is None else []

    def run(self, value: int, other: int | None = None) -> tuple[int]:
        return (other if other is not None else value,)


class TestExpands(_Node):
    """A loop: expands into a node that waits and itself again, `times` times, or into one that raises."""

    INPUTS: ClassVar = {
        **_Node.INPUTS,
        "times": ("INT", {}),
        "seconds": ("FLOAT", {}),
    }
    OPTIONAL: ClassVar = {"raises": ("BOOLEAN", {"default": False})}

    def run(self, value: int, times: int, seconds: float, raises: bool = False) -> Any:
        from comfy_execution.graph_utils import GraphBuilder

        if times == 0 and not raises:
            return (value,)
        graph = GraphBuilder()
        last = graph.node("TestWait", value=value, seconds=seconds)
        if times == 0:
            last = graph.node("TestRaises", value=last.out(0))
        else:
            last = graph.node(
                "TestExpands", value=last.out(0), times=times - 1, seconds=seconds, raises=raises
            )
        return {"result": (last.out(0),), "expand": graph.finalize()}


class TestWaitAsync(_Node):
    """Takes its time while others are executed."""

    INPUTS: ClassVar = TestWait.INPUTS

    async def run(self, value: int, seconds: float) -> tuple[int]:
        await asyncio.sleep(seconds)
        return (value + 1,)


class TestSum(_Node):
    """Needs both."""

    INPUTS: ClassVar = {**_Node.INPUTS, "other": ("INT", {"forceInput": True})}

    def run(self, value: int, other: int) -> tuple[int]:
        return (value + other,)


class TestWords(_Node):
    """What a text encoder for Wan2.1 would make of a text."""

    INPUTS: ClassVar = {"text": ("STRING", {"multiline": True})}
    RETURN_TYPES: ClassVar = ("CONDITIONING",)

    def run(self, text: str) -> tuple[Any]:
        import torch

        return ([[torch.full((1, 8, 4096), len(text) / 100), {}]],)


class TestLatentResult(_Node):
    """Whether latents are numbers."""

    INPUTS: ClassVar = {"samples": ("LATENT",)}
    OUTPUT_NODE = True

    def run(self, samples: dict[str, Any]) -> dict[str, Any]:
        import torch

        return {"ui": {"text": [str(bool(torch.isfinite(samples["samples"]).all()))]}}


NODE_CLASS_MAPPINGS = {
    class_.__name__: class_
    for class_ in (
        TestNumber,
        TestResult,
        TestWait,
        TestAllocates,
        TestProgress,
        TestRaises,
        TestBlocks,
        TestLazy,
        TestExpands,
        TestWaitAsync,
        TestSum,
        TestWords,
        TestLatentResult,
    )
}
