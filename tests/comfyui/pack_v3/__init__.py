"""A node pack for the tests of the real ComfyUI, whose nodes are declared by its newer schema."""

from __future__ import annotations

import asyncio
from typing import Any

from comfy_api.latest import ComfyExtension, io


class TestAddV3(io.ComfyNode):  # type: ignore[misc]
    """Adds one."""

    @classmethod
    def define_schema(cls) -> Any:
        inputs, outputs = [io.Int.Input("value", force_input=True)], [io.Int.Output()]
        return io.Schema(
            node_id="TestAddV3", display_name="Add (V3)", category="test", inputs=inputs, outputs=outputs
        )

    @classmethod
    def execute(cls, value: int) -> Any:
        return io.NodeOutput(value + 1)


class TestWaitV3(io.ComfyNode):  # type: ignore[misc]
    """Takes its time while others are executed, and adds one."""

    @classmethod
    def define_schema(cls) -> Any:
        inputs = [io.Int.Input("value", force_input=True), io.Float.Input("seconds")]
        return io.Schema(node_id="TestWaitV3", category="test", inputs=inputs, outputs=[io.Int.Output()])

    @classmethod
    async def execute(cls, value: int, seconds: float) -> Any:
        await asyncio.sleep(seconds)
        return io.NodeOutput(value + 1)


class Extension(ComfyExtension):  # type: ignore[misc]
    """The pack."""

    async def get_node_list(self) -> list[Any]:
        return [TestAddV3, TestWaitV3]


async def comfy_entrypoint() -> Extension:
    """What ComfyUI asks a pack of V3 nodes for."""
    return Extension()
