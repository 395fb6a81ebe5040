"""How long a workflow is to take before it begins, and whether its samplers fit.

By what is known best: by what runs of the same workflow took, else by what its models are to compute (see
`models_ahead`). What nobody knows is None.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from crystools_tpu.comfyui.chips_here import Chips, chips_here
from crystools_tpu.comfyui.models_ahead import Ahead, ModelsAhead
from crystools_tpu.comfyui.prompt_graph import PromptGraph
from crystools_tpu.comfyui.prompts import PIPELINE
from crystools_tpu.comfyui.samplings import Sampling, as_validated, samplings
from crystools_tpu.monitor import Monitor
from crystools_tpu.server.runs import KeptRuns
from crystools_tpu.server.settings import FieldError
from crystools_tpu.server.wire import Expected, ExpectedNode
from crystools_tpu.telemetry import History, RunReport, Shape, StageName, Status, newest_alike
from crystools_tpu.telemetry.expectation import expectation
from crystools_tpu.telemetry.guard import Guard

logger = logging.getLogger(__name__)

_OUT_OF_MEMORY: Final = re.compile(r"out of (?:device )?memory|RESOURCE_EXHAUSTED", re.IGNORECASE)
_RAN_OUT: Final = "the last run of this workflow ran out of memory"

_REMEMBERED_SECONDS: Final = 60.0
"""For so long kept runs are not asked for again: to read one of a long workflow takes a tenth of a second."""

_MOST_REMEMBERED: Final = 16


class Expecting:
    """Answers what is expected of a workflow, in ComfyUI's form for its API.

    `modules` are those of a running ComfyUI, and `plans` is the folder of plans, the user's by default.
    """

    def __init__(
        self,
        modules: Mapping[str, ModuleType],
        monitor: Monitor,
        history: History,
        kept: KeptRuns | None,
        *,
        plans: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._modules = modules
        self._monitor = monitor
        self._history = history
        self._kept = kept
        self._models = ModelsAhead(modules, plans)
        self._clock = clock
        self._remembered: OrderedDict[str, tuple[float, Sequence[RunReport]]] = OrderedDict()
        self._guard = Guard(logger)

    def __call__(self, prompt: Mapping[str, Any]) -> Expected:
        """What is expected. Raises FieldError for a graph that lacks a node which another one needs."""
        nodes = self._modules.get("nodes")
        classes: Mapping[str, Any] = getattr(nodes, "NODE_CLASS_MAPPINGS", {})
        titles: Mapping[str, str] = getattr(nodes, "NODE_DISPLAY_NAME_MAPPINGS", {})
        try:
            graph = PromptGraph(_Queued(as_validated(prompt, classes)), classes, titles)
            outputs = [each for each in prompt if getattr(graph.class_of(each), "OUTPUT_NODE", False) is True]
            needed = graph.needed_for(outputs)
            workflow = graph.fingerprint(needed) if needed else None
            found = samplings(graph, needed)
        except KeyError as error:
            raise FieldError("prompt", f"prompt has no node {error}, which another node needs") from None
        chips = chips_here(self._modules, self._monitor)
        if workflow is not None:
            with self._guard("what a workflow is to take is not known"):
                return self._expected(workflow, found, chips)
        return _by_models(workflow, found, [Ahead()] * len(found), chips)

    def _expected(self, workflow: str, found: Sequence[Sampling], chips: Chips | None) -> Expected:
        own = [run for run in self._history.reports() if run.params.get("workflow") == workflow]
        like = _on_the_same([*own, *self._ask_kept(PIPELINE, workflow)], chips)
        if like:
            expected = _by_history(workflow, found, like)
        else:
            runs_of = self._runs_on(chips)
            ahead = [self._models.of(each, chips, runs_of) for each in found]
            expected = _by_models(workflow, found, ahead, chips)
        if _ran_out_of_memory(own):
            nodes = zip(found, expected.nodes, strict=True)
            expected = dataclasses.replace(
                expected,
                seconds=None,
                by=None,
                nodes=tuple(self._too_large(asked, node, chips) for asked, node in nodes),
            )
        return expected

    def _too_large(self, asked: Sampling, node: ExpectedNode, chips: Chips | None) -> ExpectedNode:
        """The sampler of a run that ran out of memory, with the largest smaller shape that has run here."""
        shapes = node.would_fit
        if not shapes and asked.request is not None:
            most = _volume(Shape(**asked.request.size._asdict()))
            ran = {_shape_of(run) for run in self._runs_on(chips)(asked.model)}
            smaller = [shape for shape in ran if shape is not None and _volume(shape) < most]
            shapes = tuple(sorted(smaller, key=_volume)[-1:])
        reason = node.reason or _RAN_OUT
        return dataclasses.replace(node, seconds=None, fits=False, reason=reason, would_fit=shapes)

    def _runs_on(self, chips: Chips | None) -> Callable[[str], Sequence[RunReport]]:
        """By model its runs on all of these chips, the newest first."""

        def runs_of(model: str) -> Sequence[RunReport]:
            if chips is None:
                return ()
            kept = [*self._ask_kept(PIPELINE), *self._ask_kept(model)]
            runs = {run.run_id: run for run in [*kept, *self._history.reports()]}.values()
            on_them = [
                run
                for run in runs
                if run.status is Status.SUCCEEDED and chips.are(run.device) and _ran_on_all(run, model)
            ]
            return sorted(on_them, key=lambda run: -run.started_unix_seconds)

        return runs_of

    def _ask_kept(self, pipeline: str, workflow: str | None = None) -> Sequence[RunReport]:
        """The kept runs of a pipeline that succeeded, of one workflow or any; asked for now and then."""
        if self._kept is None:
            return ()
        now, key = self._clock(), f"{pipeline} {workflow}"
        asked_at, runs = self._remembered.pop(key, (-_REMEMBERED_SECONDS, ()))
        if now - asked_at >= _REMEMBERED_SECONDS:
            params = {} if workflow is None else {"workflow": workflow}
            asked_at, runs = now, self._kept.alike(_asking_for(pipeline, params))
        self._remembered[key] = (asked_at, runs)
        if len(self._remembered) > _MOST_REMEMBERED:
            self._remembered.popitem(last=False)
        return runs


class _Queued:
    """A prompt that was not queued yet, in the place of ComfyUI's `DynamicPrompt`."""

    def __init__(self, prompt: Mapping[str, Any]) -> None:
        self.original_prompt = prompt

    def get_node(self, node_id: str) -> Any:
        """A node of it."""
        return self.original_prompt[node_id]


def _by_history(workflow: str, found: Iterable[Sampling], like: Sequence[RunReport]) -> Expected:
    """By the runs that had the fewest nodes cached: they tell of most nodes what they take."""
    least = dataclasses.replace(min(like, key=lambda run: len(run.cached_nodes)), run_id="")
    alike = newest_alike(least, like)
    expected = expectation(least, alike)
    assert expected is not None  # `least` itself is among those that are alike
    by_node = {key[3]: part for key, part in expected.parts.items() if key[1] is StageName.NODE}
    nodes = []
    for asked in found:
        part = by_node.get(asked.node.id)
        seconds, fits = (None, None) if part is None else (part.whole_seconds, True)
        nodes.append(ExpectedNode(asked.node, seconds, fits, None, (), asked.shape_nodes, asked.loras))
    return Expected(
        workflow=workflow,
        seconds=expected.seconds,
        by=None if expected.seconds is None else "history",
        cached_nodes=len(least.cached_nodes),
        alike_seconds=tuple(run.total_seconds for run in alike if run.total_seconds is not None),
        chips=None if alike[0].device is None else alike[0].device.chips,
        nodes=tuple(nodes),
    )


def _by_models(
    workflow: str | None, found: Sequence[Sampling], ahead: Sequence[Ahead], chips: Chips | None
) -> Expected:
    """By what the models are to compute; where that is not known of one of them, the whole is not known."""
    known = [each.seconds for each in ahead]
    seconds = None if None in known or not known else sum(each for each in known if each is not None)
    by_plan = all(each.plan is not None for each in ahead)
    return Expected(
        workflow=workflow,
        seconds=seconds,
        by=None if seconds is None else "plan" if by_plan else "scaled",
        cached_nodes=0,
        alike_seconds=(),
        chips=None if chips is None else chips.chips,
        nodes=tuple(
            ExpectedNode(
                node=asked.node,
                seconds=each.seconds if asked.is_whole else each.denoising_seconds,
                fits=each.fits,
                reason=each.reason,
                would_fit=each.fitting_shapes,
                shape_nodes=asked.shape_nodes,
                loras=asked.loras,
            )
            for asked, each in zip(found, ahead, strict=True)
        ),
    )


def _on_the_same(runs: Iterable[RunReport], chips: Chips | None) -> list[RunReport]:
    """The runs that succeeded and executed something, on these chips, or else on those of the newest."""
    known = {
        run.run_id: run
        for run in runs
        if run.status is Status.SUCCEEDED and any(stage.node is not None for stage in run.stages)
    }
    newest_first = sorted(known.values(), key=lambda run: -run.started_unix_seconds)
    if chips is not None:
        return [run for run in newest_first if run.device is None or chips.are(run.device)]
    return [run for run in newest_first if run.device == newest_first[0].device]


def _ran_out_of_memory(runs: Iterable[RunReport]) -> bool:
    """Whether the last of them did, that has ended."""
    ended = [run for run in runs if run.status in (Status.SUCCEEDED, Status.FAILED)]
    last = max(ended, key=lambda run: run.started_unix_seconds, default=None)
    return last is not None and last.error is not None and _OUT_OF_MEMORY.search(last.error) is not None


def _ran_on_all(run: RunReport, model: str) -> bool:
    """Whether the model denoised in this run, on all of its devices as far as it says."""
    stages = [
        stage
        for stage in run.stages
        if stage.name is StageName.DENOISE and (stage.pipeline or run.pipeline) == model
    ]
    return bool(stages) and all(
        not stage.hbm or run.device is None or len(stage.hbm) == run.device.count for stage in stages
    )


def _shape_of(run: RunReport) -> Shape | None:
    height, width, frames = (run.params.get(name) for name in ("height", "width", "num_frames"))
    if not isinstance(height, int) or not isinstance(width, int):
        return None
    return Shape(height, width, frames if isinstance(frames, int) else None)


def _volume(shape: Shape) -> int:
    return shape.height * shape.width * (shape.num_frames or 1)


def _asking_for(pipeline: str, params: Mapping[str, str]) -> RunReport:
    """A run of which no more is known than this."""
    return RunReport(
        run_id="",
        pipeline=pipeline,
        model_id=None,
        params=params,
        status=Status.RUNNING,
        error=None,
        started_at="",
        started_unix_seconds=0.0,
        total_seconds=None,
        output=None,
        device=None,
        stages=(),
    )
