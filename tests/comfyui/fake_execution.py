"""A fake of how ComfyUI executes a prompt: what it tells whom, in its order, and nothing of its work.

The tests of the real one are in `test_real_comfyui.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

Prompt = dict[str, dict[str, Any]]


class ProgressHandler:
    """ComfyUI's base class of handlers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.enabled = True

    def set_registry(self, registry: Any) -> None:
        """As ComfyUI's: nothing."""

    def reset(self) -> None:
        """As ComfyUI's: nothing."""


class DynamicPrompt:
    """A prompt, and the nodes that others have expanded into."""

    def __init__(self, prompt: Prompt) -> None:
        self.original_prompt = prompt
        self.expanded: dict[str, tuple[str, dict[str, Any]]] = {}

    def get_node(self, node_id: str) -> dict[str, Any]:
        return self.original_prompt[node_id] if node_id in self.original_prompt else self.expanded[node_id][1]

    def get_parent_node_id(self, node_id: str) -> str | None:
        return self.expanded[node_id][0] if node_id in self.expanded else None

    def get_real_node_id(self, node_id: str) -> str:
        while node_id in self.expanded:
            node_id = self.expanded[node_id][0]
        return node_id


class PromptExecutor:
    """What it says by `add_message` is kept, as for ComfyUI's history."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def add_message(self, event: str, data: dict[str, Any], broadcast: bool) -> str:
        self.said.append(event)
        return event


@dataclass
class Executing:
    """A prompt while it is executed."""

    dynprompt: DynamicPrompt
    handlers: dict[str, Any] = field(default_factory=dict)

    def start(self, *node_ids: str) -> None:
        for node_id in node_ids:
            for handler in self.handlers.values():
                handler.start_handler(node_id, {}, "prompt")

    def update(self, node_id: Any, value: float, total: float) -> None:
        for handler in self.handlers.values():
            handler.update_handler(node_id, value, total, {}, "prompt", None)

    def finish(self, *node_ids: str) -> None:
        for node_id in node_ids:
            for handler in self.handlers.values():
                handler.finish_handler(node_id, {}, "prompt")

    def run(self, *node_ids: str) -> None:
        """Executes nodes one after another."""
        for node_id in node_ids:
            self.start(node_id)
            self.finish(node_id)

    def expand(self, node_id: str, **nodes: dict[str, Any]) -> None:
        self.dynprompt.expanded |= {inner: (node_id, node) for inner, node in nodes.items()}


class FakeExecution:
    """The modules of a ComfyUI that executes prompts. `classes` are those of its nodes."""

    def __init__(self, classes: Mapping[str, type[Any]] | None = None) -> None:
        self.progress = ModuleType("comfy_execution.progress")
        self.execution = ModuleType("execution")
        self.nodes = ModuleType("nodes")
        self.prompt_queue = SimpleNamespace(currently_running={}, history={})
        self.registry: Any = None
        self.progress.ProgressHandler = ProgressHandler  # type: ignore[attr-defined]
        self.progress.get_progress_state = lambda: self.registry  # type: ignore[attr-defined]
        self.progress.add_progress_handler = self._add_handler  # type: ignore[attr-defined]
        self.execution.PromptExecutor = type("PromptExecutor", (PromptExecutor,), {})  # type: ignore[attr-defined]
        self.nodes.NODE_CLASS_MAPPINGS = dict(classes or {})  # type: ignore[attr-defined]
        self.nodes.NODE_DISPLAY_NAME_MAPPINGS = {"Sampler": "A Sampler"}  # type: ignore[attr-defined]

    def modules(self) -> dict[str, ModuleType]:
        """As they are in `sys.modules`, but for `server`."""
        return {module.__name__: module for module in (self.progress, self.execution, self.nodes)}

    def executor(self) -> PromptExecutor:
        made: PromptExecutor = self.execution.PromptExecutor()
        return made

    @contextlib.contextmanager
    def executing(
        self,
        executor: PromptExecutor,
        prompt: Prompt,
        *,
        outputs: list[str] | None = None,
        cached: tuple[str, ...] = (),
        extra_data: dict[str, Any] | None = None,
    ) -> Iterator[Executing]:
        """A prompt from its start; how it ends, the block says with `end`."""
        item = (0, "prompt", prompt, extra_data or {}, list(prompt)[-1:] if outputs is None else outputs)
        self.prompt_queue.currently_running[0] = item
        executor.add_message("execution_start", {"prompt_id": "prompt"}, broadcast=False)
        self.registry = Executing(DynamicPrompt(prompt))
        executor.add_message(
            "execution_cached", {"nodes": list(cached), "prompt_id": "prompt"}, broadcast=False
        )
        yield self.registry
        self.prompt_queue.currently_running.clear()

    def _add_handler(self, handler: ProgressHandler) -> None:
        handler.set_registry(self.registry)
        self.registry.handlers[handler.name] = handler


def succeed(executor: PromptExecutor) -> None:
    """A prompt's end."""
    executor.add_message("execution_success", {"prompt_id": "prompt"}, broadcast=False)


def fail(executor: PromptExecutor, node_id: str, kind: str = "ValueError", message: str = "no\n") -> None:
    """A prompt's end by an error in a node."""
    data = {"node_id": node_id, "exception_type": kind, "exception_message": message}
    executor.add_message("execution_error", {"prompt_id": "prompt", **data}, broadcast=False)


def interrupt(executor: PromptExecutor, node_id: str) -> None:
    """A prompt's end by its user."""
    data = {"prompt_id": "prompt", "node_id": node_id}
    executor.add_message("execution_interrupted", data, broadcast=True)
