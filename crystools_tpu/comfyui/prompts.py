"""Each execution of a workflow is one run, whatever its nodes.

ComfyUI tells a `ProgressHandler` of each node as it starts, gets on and ends. A handler belongs to one
prompt, though, and no hook tells of a prompt that begins, of the nodes that are cached, or of how it ended:
of recent versions' cache providers `on_prompt_start` comes before there is anything to add a handler to,
`on_prompt_end` says no outcome, and being one makes ComfyUI hash the inputs of every node.
`PromptExecutor.add_message` hears all of it in every version, and is the one method that is wrapped.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Mapping, Sequence
from types import ModuleType
from typing import Any, Final
from weakref import WeakKeyDictionary

from crystools_tpu.comfyui.prompt_graph import PromptGraph
from crystools_tpu.comfyui.results import Result, workflow_of
from crystools_tpu.telemetry.following import follower
from crystools_tpu.telemetry.guard import Guard
from crystools_tpu.telemetry.workflow import WorkflowFacts, WorkflowRun, workflow_run

logger = logging.getLogger(__name__)

PIPELINE: Final = "comfyui"
EXTRA_DATA: Final = "crystools_tpu"
"""Where `extra_data` of a prompt has what is ours: its `name`."""

_LOST: Final = "what ComfyUI executes could not be recorded"
_NO_HOOKS: Final = (
    "this ComfyUI tells nobody of the nodes that it executes (0.3.44 does): "
    "each node of ours is a run of its own, and other nodes are not seen"
)
_NO_END: Final = "ComfyUI did not say how it ended: its log may tell why"
_ENDS: Final = ("execution_success", "execution_error", "execution_interrupted", "execution_start")


class _Handler:
    """Tells a prompt's run what ComfyUI tells of its nodes. Is made a `ProgressHandler` of ComfyUI's.

    What fails is the guard's, by hand: a block of it takes as long as what it guards.
    """

    def __init__(self, run: WorkflowRun, guard: Guard) -> None:
        super().__init__("crystools-tpu")  # type: ignore[call-arg] # a ProgressHandler has a name
        self._run = run
        self._guard = guard

    def start_handler(self, node_id: str, *_: Any, **__: Any) -> None:
        """A node is executed from now on, or again if it has waited for its inputs."""
        try:
            self._run.node_started(node_id)
        except Exception as error:  # noqa: BLE001
            self._guard.failed(_LOST, error)

    def update_handler(self, node_id: str, value: float, max_value: float, *_: Any, **__: Any) -> None:
        """A node says how it gets on."""
        try:
            self._run.node_progressed(node_id, value, max_value)
        except Exception as error:  # noqa: BLE001
            self._guard.failed(_LOST, error)

    def finish_handler(self, node_id: str, *_: Any, **__: Any) -> None:
        """A node has ended, or was cached if it never started."""
        try:
            self._run.node_finished(node_id)
        except Exception as error:  # noqa: BLE001
            self._guard.failed(_LOST, error)


def follow_prompts(modules: Mapping[str, ModuleType]) -> None:
    """From now on each prompt that ComfyUI executes is a run. `modules` are those of a running ComfyUI.

    One that has not all that is needed is left as it is, and the log says so.
    """
    executor: Any = getattr(modules.get("execution"), "PromptExecutor", None)
    progress, nodes = modules.get("comfy_execution.progress"), modules.get("nodes")
    needed = ("ProgressHandler", "add_progress_handler", "get_progress_state")
    if nodes is None or not hasattr(executor, "add_message") or not all(hasattr(progress, n) for n in needed):
        logger.info(_NO_HOOKS)
        return
    prompts = _Prompts(modules)
    add_message = executor.add_message

    @functools.wraps(add_message)
    def add_message_and_follow(*args: Any, **kwargs: Any) -> Any:
        prompts.hear(args)
        return add_message(*args, **kwargs)

    executor.add_message = add_message_and_follow


class _Prompts:
    """The prompts that are being executed, one at most by each of ComfyUI's executors."""

    def __init__(self, modules: Mapping[str, ModuleType]) -> None:
        self._modules = modules
        self._progress: Any = modules["comfy_execution.progress"]
        self._handler_class: Any = type("CrystoolsTPU", (_Handler, self._progress.ProgressHandler), {})
        self._executing: WeakKeyDictionary[Any, tuple[WorkflowRun, str]] = WeakKeyDictionary()
        self._guard = Guard(logger)

    def hear(self, said: Sequence[Any]) -> None:
        """What an executor says, as it is given to `add_message`, in the thread that executes."""
        with self._guard(_LOST):
            executor, event, data = said[:3]
            if event == "execution_start":
                self._guard = Guard(logger)
            if event == "execution_cached":
                run = self._begun(data["prompt_id"], data["nodes"])
                self._executing[executor] = run, data["prompt_id"]
                self._progress.add_progress_handler(self._handler_class(run, self._guard))
            elif event in _ENDS and executor in self._executing:
                run, prompt_id = self._executing[executor]
                _end(run, event, data)
                del self._executing[executor]
                follower.add(Result(run, prompt_id, self._modules, self._guard))

    def _begun(self, prompt_id: str, cached: Collection[str]) -> WorkflowRun:
        """The run of a prompt that is about to be executed; its registry of progress is there."""
        nodes: Any = self._modules["nodes"]
        dynamic = self._progress.get_progress_state().dynprompt
        graph = PromptGraph(dynamic, nodes.NODE_CLASS_MAPPINGS, nodes.NODE_DISPLAY_NAME_MAPPINGS)
        extra_data, outputs = self._queued(prompt_id)
        facts = functools.partial(_facts, graph, extra_data, outputs, cached, self._guard)
        return workflow_run(PIPELINE, facts=facts, describe=graph.describe)

    def _queued(self, prompt_id: str) -> tuple[Mapping[str, Any], Collection[str] | None]:
        """What came with a prompt, and the outputs to make; none and None where the queue does not tell."""
        with self._guard("the queue does not tell what came with the prompt"):
            queue: Any = self._modules["server"].PromptServer.instance.prompt_queue
            for _, queued_id, _, extra_data, outputs, *_ in tuple(queue.currently_running.values()):
                if queued_id == prompt_id:
                    return extra_data, outputs
        return {}, None


def _facts(
    graph: PromptGraph,
    extra_data: Mapping[str, Any],
    outputs: Collection[str] | None,
    cached: Collection[str],
    guard: Guard,
) -> WorkflowFacts:
    """What is known of a prompt whose `outputs` are to be made, None for all that there are."""
    needed = graph.needed_for(graph.node_ids if outputs is None else outputs)
    found = needed.keys() & cached
    params: dict[str, str | int] = {"nodes_cached": len(found)}
    with guard("the workflow has no fingerprint"):
        params["workflow"] = graph.fingerprint(needed)
    return WorkflowFacts(
        name=_name(extra_data),
        params=params,
        nodes_total=None if outputs is None else len(graph.needed_for(outputs, found).keys() | found),
        cached_nodes=tuple(graph.node(node_id) for node_id in needed if node_id in found),
        attachments=workflow_of(extra_data),
    )


def _end(run: WorkflowRun, event: str, data: Mapping[str, Any]) -> None:
    """Ends a run with this message of ComfyUI's, the next one's start at the latest."""
    if event == "execution_success":
        run.finish()
    elif event == "execution_interrupted":
        run.finish(failed_node=data["node_id"], cancelled=True)
    elif event == "execution_error":
        kind = data["exception_type"].rpartition(".")[2]
        error = f"{kind}: {data['exception_message'].strip()}".rstrip(": ")
        run.finish(error, failed_node=data["node_id"])
    else:
        run.finish(_NO_END)


def _name(extra_data: Mapping[str, Any]) -> str | None:
    """What its user calls the workflow, where the page or a client has said so."""
    ours = extra_data.get(EXTRA_DATA)
    name = ours.get("name") if isinstance(ours, Mapping) else None
    return name if isinstance(name, str) and name else None
