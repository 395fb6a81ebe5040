"""Records one execution of a workflow: a run of which each node is a stage, and what a node runs a part.

Whoever executes the workflow says what happens (`node_started`, ...), at about a microsecond each. A thread
makes stages of that a few times a second, and once more at the end: a workflow of a thousand quick nodes is
not slower for being watched.

    run = workflow_run("comfyui", facts=facts, describe=describe)
    run.node_started("3")
    run.node_progressed("3", 1, 20)
    run.node_finished("3")
    run.finish()
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, Unpack

from crystools_tpu.telemetry import recorder
from crystools_tpu.telemetry.clock import elapsed
from crystools_tpu.telemetry.events import (
    DEFAULT_CONTENT_PARAMS,
    Attachment,
    Forecast,
    Node,
    Params,
    RunChanged,
    RunReport,
    RunStarted,
    StageFinished,
    StageName,
    StageReport,
    StageStarted,
    Status,
    StepFinished,
)
from crystools_tpu.telemetry.following import follower
from crystools_tpu.telemetry.keeping import keeper
from crystools_tpu.telemetry.node_memory import MemoryReading, NodeMemory
from crystools_tpu.telemetry.node_stage import NodeFacts, NodeStage
from crystools_tpu.telemetry.profile import Profiler
from crystools_tpu.telemetry.protocol import RunFacts
from crystools_tpu.telemetry.pubsub import Bus
from crystools_tpu.telemetry.recorder import History, Run, executing, report_begun
from crystools_tpu.telemetry.stage import Stage, status_of
from crystools_tpu.telemetry.step_times import eta_seconds
from crystools_tpu.telemetry.text import describe_error, safe_text

logger = logging.getLogger(__name__)

_FIRST_LOOK_SECONDS: Final = 0.3
"""A workflow that is over before does not share the interpreter with the thread that makes its stages."""

_MOST_OF_THE_CPU: Final = 0.005
"""What making stages may take of a core meanwhile: the workflow has to wait for the interpreter."""


@dataclass(frozen=True, slots=True)
class WorkflowFacts:
    """What is known of a workflow that is executed.

    `cached_nodes` are not executed; `nodes_total` counts them too. `attachments` are kept with the run.
    """

    name: str | None = None
    params: Params = field(default_factory=dict)
    nodes_total: int | None = None
    cached_nodes: tuple[Node, ...] = ()
    attachments: tuple[Attachment, ...] = ()


class _Happening(NamedTuple):
    what: Literal["started", "progressed", "finished"]
    node_id: str
    at: float
    memory: MemoryReading | None = None
    value: float = 0.0
    total: float = 0.0


class _End(NamedTuple):
    at: float
    status: Status
    error: str | None
    failed_node: str | None


class WorkflowRun(Run):
    """One execution of a workflow. Made by `workflow_run`.

    The methods that say what happens are for the thread that executes it.
    """

    def __init__(
        self,
        pipeline: str,
        *,
        facts: Callable[[], WorkflowFacts],
        describe: Callable[[str], NodeFacts],
        memory: NodeMemory,
        bus: Bus,
        profiler: Profiler,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        super().__init__(pipeline, bus=bus, profiler=profiler, clock=clock, wall_clock=wall_clock)
        self._facts: Callable[[], WorkflowFacts] | None = facts
        self._describe = describe
        self._memory = memory
        self._memory_since_last_node: MemoryReading | None = None
        self._happenings: deque[tuple[Any, ...]] = deque()  # what a _Happening has, for that takes its time
        self._folding = threading.RLock()
        self._nodes: dict[str, NodeStage] = {}
        self._running: list[NodeStage] = []
        self._untold: deque[NodeStage] = deque()
        self._end: _End | None = None
        self._look_at = time.monotonic() + _FIRST_LOOK_SECONDS
        self._is_followed = False

    def begin(self, history: History) -> None:
        """Remembers the run. A thread follows it until it ends, and tells of it."""
        with self._guard("the run could not be remembered"):
            history.add(self)
        with self._guard("a workflow cannot be followed while it runs"):
            follower.add(self)
            self._is_followed = True

    def node_started(self, node_id: str) -> None:
        """A node is executed from now on, or again after it has waited for others."""
        at = self._clock()
        memory, self._memory_since_last_node = self._memory_since_last_node, None
        if memory is None and at >= self._memory.due_at:
            memory = self._memory.read()
        self._happenings.append(("started", node_id, at, memory))
        executing.set((self, node_id))

    def node_progressed(self, node_id: str, value: float, total: float) -> None:
        """A node has done `value` of `total`."""
        self._happenings.append(("progressed", node_id, self._clock(), None, value, total))

    def node_finished(self, node_id: str) -> None:
        """A node has been executed to its end. One that had not started is passed over: it was cached."""
        at = self._clock()
        if self._memory_since_last_node is None and at >= self._memory.due_at:
            self._memory_since_last_node = self._memory.read()
        self._happenings.append(("finished", node_id, at, self._memory_since_last_node))

    def finish(
        self,
        error: BaseException | str | None = None,
        *,
        failed_node: str | None = None,
        cancelled: bool = False,
    ) -> None:
        """Ends the run. `failed_node` is the one whose error or cancelling ended it.

        Returns at once: what is left to fold is folded in the thread.
        """
        if self._end is not None:
            return
        if isinstance(error, str) or error is None:
            status = Status.CANCELLED if cancelled else Status.FAILED if error else Status.SUCCEEDED
        else:
            status, error = status_of(error), describe_error(error)
        self._end = _End(self._clock(), status, error, failed_node)
        executing.set(None)
        if not self._is_followed:
            self._fold_to_the_end()

    def join(self) -> None:
        """Sees to it that all that has happened is in the report of a run that has ended."""
        if self._end is not None:
            self._fold_to_the_end()

    def part(self, node_id: str, pipeline: str, **facts: Unpack[RunFacts]) -> Run | None:
        """What records a run of `pipeline` within the node as a part of this one; None where it has ended."""
        with self._folding:
            self._fold()
            node = self._nodes.get(node_id)
            if node is None or not node.is_running or self._end is not None:
                return None
            node.has_parts = True
            return Part(self, node.index, pipeline, **facts)

    def placed(self, make: Callable[[int], Stage]) -> Stage:
        """A stage of a part, which `make` makes for its position among the run's."""
        with self._folding:
            self._tell_starts()
            stage = make(len(self._stages))
            self._stages.append(stage)
            return stage

    def learn(self, part: RunReport) -> None:
        """Takes over what a part knows of what is made, and on what. What is known already stays."""
        with self._folding:
            known = self._start
            params = {name: value for name, value in part.params.items() if name != "node"}
            content = known.content | part.content | DEFAULT_CONTENT_PARAMS
            self._start = dataclasses.replace(
                known,
                model_id=known.model_id or part.model_id,
                params={**params, **known.params},
                content_params=tuple(sorted(content & {*params, *known.params})),
                device=known.device or part.device,
                forecast=_joined(known.forecast, part.forecast),
            )
            self.output = part.output or self.output
            self._publish(RunChanged(self.report))

    def look(self) -> bool:
        """Makes stages of what has happened, unless that was done just now; whether the run has ended."""
        if self._end is not None:
            self._fold_to_the_end()
            return True
        began = time.thread_time()
        if time.monotonic() >= self._look_at:
            with self._guard("what happens in a workflow could not be told"):
                self._fold()
            self._look_at = time.monotonic() + (time.thread_time() - began) / _MOST_OF_THE_CPU
        return False

    def _fold_to_the_end(self) -> None:
        with self._folding:
            if self._final is not None:
                return
            with self._guard("the end of a workflow could not be told"):
                self._fold()
            end = self._end
            assert end is not None
            failed = self._with_ancestors(self._innermost(end.failed_node))
            for node in tuple(self._running):
                broken = node in failed
                status = end.status if broken or end.status is Status.SUCCEEDED else Status.CANCELLED
                self._finish(node, end.at, status, end.error if broken else None, None)
            seconds = elapsed(self._started_at, end.at)
            self._final = self._summary(end.status, end.error, seconds)
            self._describe = _forgotten  # it may hold all that the nodes were given
        self._tell_end(self.report)

    def made(self, output: str) -> None:
        """Says where the result is, of which one may hear only when the run has ended."""
        with self._folding:
            self.output = output
            if self._final is not None:
                self._final = dataclasses.replace(self._final, output=output)
        self._publish(RunChanged(self.report))

    def _fold(self) -> None:
        """Makes stages of what has happened since the last time."""
        with self._folding:
            self._tell_start()
            while self._happenings:
                happening = _Happening(*self._happenings.popleft())
                node = self._nodes.get(happening.node_id)
                if happening.what == "started":
                    self._start_node(node, happening)
                elif node is not None and node.is_running and happening.what == "progressed":
                    self._step(node, happening)
                elif node is not None and node.is_running:
                    self._finish(node, happening.at, Status.SUCCEEDED, None, happening.memory)
            self._tell_starts()

    def _tell_start(self) -> None:
        """Tells of the run, the first time. What it is of is read here, where it takes nobody's time."""
        if (read := self._facts) is None:
            return
        self._facts = None
        facts = WorkflowFacts()
        with self._guard("what a workflow is could not be read"):
            facts = read()
            self._start = dataclasses.replace(
                self._start,
                name=facts.name,
                params=facts.params,
                nodes_total=facts.nodes_total,
                cached_nodes=facts.cached_nodes,
            )
        keeper.run_begins(self.run_id)
        self._publish(RunStarted(self.report))
        for attachment in facts.attachments:
            self.attach(attachment)

    def _start_node(self, node: NodeStage | None, happening: _Happening) -> None:
        if node is None or not node.is_running:
            node = self._new(happening)
        around = self._with_ancestors(node)
        for other in self._running:
            if other not in around and not other.facts.overlaps:
                other.pause(happening.at)
        for each in around:
            each.resume(happening.at)

    def _new(self, happening: _Happening) -> NodeStage:
        facts = NodeFacts(Node(happening.node_id, "unknown", None))
        with self._guard("a workflow's node could not be described"):
            facts = self._describe(happening.node_id)
        parent = self._parent_of(facts)
        began = self._start.started_unix_seconds + (elapsed(self._started_at, happening.at) or 0.0)
        begun = report_begun(
            StageName.NODE,
            facts.node.class_type,
            began,
            parent=None if parent is None else parent.index,
            node=facts.node,
        )
        node = NodeStage(len(self._stages), begun, facts, happening.at, happening.memory)
        self._stages.append(node)
        self._nodes[happening.node_id] = node
        self._running.append(node)
        self._untold.append(node)
        return node

    def _step(self, node: NodeStage, happening: _Happening) -> None:
        new = node.progressed(happening.at, happening.value, happening.total)
        if not new:
            return
        self._tell_starts()
        report = node.report
        to_go_seconds = eta_seconds(report)
        for number, record in enumerate(new, len(report.steps) - len(new)):
            self._publish(
                StepFinished(
                    self.run_id,
                    self._start.pipeline,
                    node.index,
                    report.name,
                    step=number,
                    record=record,
                    steps_total=report.steps_total,
                    eta_seconds=to_go_seconds,
                    mfu=None,
                    mbu=None,
                    bound=None,
                )
            )

    def _finish(
        self, node: NodeStage, at: float, status: Status, error: str | None, memory: MemoryReading | None
    ) -> None:
        report = node.end(at, status, error, memory)
        self._running.remove(node)
        self._tell_starts(before=node.index)
        if self._untold and self._untold[0] is node:  # its end says all
            self._untold.popleft()
        self._publish(StageFinished(self.run_id, self._start.pipeline, node.index, report))

    def _tell_starts(self, before: float = float("inf")) -> None:
        """Tells of the nodes that have begun, those at earlier positions first."""
        while self._untold and self._untold[0].index < before:
            node = self._untold.popleft()
            self._publish(StageStarted(self.run_id, node.index, node.report))

    def _with_ancestors(self, node: NodeStage | None) -> list[NodeStage]:
        """The node and those that it is a part of, innermost first."""
        chain: list[NodeStage] = []
        while node is not None and node not in chain:
            chain.append(node)
            node = self._parent_of(node.facts)
        return chain

    def _parent_of(self, facts: NodeFacts) -> NodeStage | None:
        return None if facts.parent is None else self._nodes.get(facts.parent)

    def _innermost(self, node_id: str | None) -> NodeStage | None:
        """The running node that is this one, or the last that is a part of it.

        Of several that are executed at the same time nobody knows which one it was.
        """
        if node_id is None:
            return None
        chains = {node.index: self._with_ancestors(node) for node in self._running}
        within = [c for c in chains.values() if node_id in {node.facts.node.id for node in c}]
        outer = {node.index for chain in within for node in chain[1:]}
        innermost = [chain[0] for chain in within if chain[0].index not in outer]
        if len(innermost) > 1 and any(node.facts.overlaps for node in innermost):
            return self._nodes.get(node_id)
        return innermost[-1] if innermost else None


class Part(Run):
    """A run within a workflow's node: its stages are the workflow run's. Its report has them alone."""

    def __init__(self, workflow: WorkflowRun, parent: int, pipeline: str, **facts: Unpack[RunFacts]) -> None:
        super().__init__(
            pipeline,
            bus=workflow._bus,
            profiler=workflow._around.profiler,
            clock=workflow._clock,
            wall_clock=workflow._wall_clock,
            **facts,
        )
        self._workflow = workflow
        self._parent = parent
        self._start = dataclasses.replace(self._start, run_id=workflow.run_id)
        self._around = dataclasses.replace(self._around, run_id=workflow.run_id)

    def begin(self, history: History) -> None:
        """Makes it known in the workflow's run."""
        self._workflow.learn(self.report)
        self._say_what_will_not_fit()

    def warn(self, warning: str) -> None:
        """Says what the user should know, of the whole workflow."""
        self._workflow.warn(warning)
        self._warnings = [*dict.fromkeys([*self._warnings, safe_text(warning)])]

    def _placed(self, report: StageReport, flops: float | None, moved_bytes: float | None) -> Stage:
        report = dataclasses.replace(report, parent=self._parent, pipeline=self._start.pipeline)
        stage = self._workflow.placed(lambda index: Stage(self._around, index, report, flops, moved_bytes))
        self._stages.append(stage)
        return stage

    def _tell_end(self, report: RunReport) -> None:
        self._workflow.learn(report)

    def _summary(self, status: Status, error: str | None, seconds: float | None) -> RunReport:
        report = super()._summary(status, error, seconds)
        stages = tuple(dataclasses.replace(stage, parent=None, pipeline=None) for stage in report.stages)
        return dataclasses.replace(report, stages=stages)


_memory: NodeMemory | None = None


def workflow_run(
    pipeline: str,
    *,
    facts: Callable[[], WorkflowFacts] = WorkflowFacts,
    describe: Callable[[str], NodeFacts],
    memory: NodeMemory | None = None,
    bus: Bus = recorder.bus,
    history: History = recorder.history,
    profiler: Profiler = recorder.profiler,
    clock: Callable[[], float] = time.perf_counter,
    wall_clock: Callable[[], float] = time.time,
) -> WorkflowRun:
    """Begins to record an execution of a workflow; `pipeline` says what executes it.

    `facts` says what is known of it, once, and `describe` what a node is, by its id: both are called in a
    thread, soon after it or the node has begun. The caller ends the run with `finish`.
    """
    global _memory
    recorder.keep_by_default(bus, history)
    if memory is None:
        memory = _memory = _memory or NodeMemory()
    run = WorkflowRun(
        pipeline,
        facts=facts,
        describe=describe,
        memory=memory,
        bus=bus,
        profiler=profiler,
        clock=clock,
        wall_clock=wall_clock,
    )
    run.begin(history)
    return run


def _forgotten(node_id: str) -> NodeFacts:
    raise LookupError(node_id)


def _joined(known: Forecast | None, part: Forecast | None) -> Forecast | None:
    """One forecast of what several parts expect of their stages."""
    if known is None or part is None or known == part:
        return known or part
    new = tuple(stage for stage in part.stages if stage not in known.stages)
    return dataclasses.replace(known, stages=(*known.stages, *new))
