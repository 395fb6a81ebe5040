"""Each prompt is a run, by what a fake of ComfyUI's execution tells; the real one has its own tests."""

from __future__ import annotations

import gc
import gzip
import json
import logging
import os
import weakref
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest

from crystools_tpu import telemetry
from crystools_tpu.comfyui.prompts import follow_prompts
from crystools_tpu.telemetry import RunReport, Status
from crystools_tpu.telemetry.following import follower

from .fake_execution import (
    DynamicPrompt,
    Executing,
    FakeExecution,
    Prompt,
    fail,
    interrupt,
    succeed,
)


class Loader:
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"file": (["a.safetensors", "b.safetensors"],)}}

    def load(self, file: str) -> None: ...


class Encoder:
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"words": ("STRING", {"multiline": True}), "model": ("MODEL",)}}

    def encode(self, words: str) -> None: ...


class Sampler:
    FUNCTION = "sample"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        noise = ("INT", {"control_after_generate": True})
        return {"required": {"noise": noise, "steps": ("INT", {"min": 1})}, "optional": {"cfg": ("FLOAT",)}}

    async def sample(self, noise: int, steps: int) -> None: ...


CLASSES = {class_.__name__: class_ for class_ in (Loader, Encoder, Sampler)}


def graph(file: str = "a.safetensors", words: str = "a cat", noise: int = 1, steps: int = 20) -> Prompt:
    """A prompt whose node "9" nothing needs."""
    return {
        "1": {"class_type": "Loader", "inputs": {"file": file}, "_meta": {"title": "Loader"}},
        "2": {"class_type": "Encoder", "inputs": {"words": words, "model": ["1", 0]}},
        "10:3": {
            "class_type": "Sampler",
            "inputs": {"noise": noise, "steps": steps, "conditioning": ["2", 0]},
            "_meta": {"title": "The sampler"},
        },
        "9": {"class_type": "Loader", "inputs": {"file": "b.safetensors"}},
        "4": {"class_type": "Saver", "inputs": {"images": ["10:3", 0], "filename_prefix": words}},
    }


@pytest.fixture
def comfyui() -> FakeExecution:
    """One that is followed."""
    fake = FakeExecution(CLASSES)
    follow_prompts(modules(fake))
    return fake


def modules(fake: FakeExecution) -> dict[str, ModuleType]:
    server = ModuleType("server")
    server.PromptServer = SimpleNamespace(instance=SimpleNamespace(prompt_queue=fake.prompt_queue))  # type: ignore[attr-defined]
    return {**fake.modules(), "server": server}


def newest() -> RunReport:
    """The report of the last run; all have ended."""
    follower.look()
    return telemetry.history.reports()[0]


def statuses(report: RunReport) -> dict[str, Status]:
    """How each node stands, by its id."""
    return {stage.node.id: stage.status for stage in report.stages if stage.node is not None}


def test_a_prompt_is_a_run_with_a_stage_for_each_node_that_was_executed(comfyui: FakeExecution) -> None:
    executor = comfyui.executor()
    named = {"crystools_tpu": {"name": "cats"}}
    with comfyui.executing(executor, graph(), cached=("1", "9"), extra_data=named) as executing:
        executing.finish("1")  # as ComfyUI says of a cached node, whose output it sends again
        executing.run("2")
        executing.start("10:3")
        executing.update("10:3", 1, 2)
        executing.update("10:3", 2, 2)
        executing.finish("10:3")
        executing.run("4")
        succeed(executor)
    report = newest()
    assert (report.pipeline, report.name, report.status) == ("comfyui", "cats", Status.SUCCEEDED)
    assert [(stage.name, stage.component, stage.node and stage.node.id) for stage in report.stages] == [
        ("node", "Encoder", "2"),
        ("node", "Sampler", "10:3"),
        ("node", "Saver", "4"),
    ]
    assert [stage.node and stage.node.title for stage in report.stages] == [None, "The sampler", None]
    assert [len(stage.steps) for stage in report.stages] == [0, 2, 0]
    assert [(node.id, node.class_type, node.title) for node in report.cached_nodes] == [("1", "Loader", None)]
    assert (report.nodes_total, report.params["nodes_cached"]) == (4, 1)


def test_what_is_needed_for_cached_nodes_alone_is_not_among_the_nodes_to_come(comfyui: FakeExecution) -> None:
    executor = comfyui.executor()
    with comfyui.executing(executor, graph(), cached=("2",)) as executing:
        executing.run("10:3", "4")
        succeed(executor)
    assert newest().nodes_total == 3


def test_comfyui_says_what_it_says_as_ever(comfyui: FakeExecution) -> None:
    executor = comfyui.executor()
    with comfyui.executing(executor, graph()):
        assert (
            executor.add_message("execution_success", {"prompt_id": "prompt"}, False) == "execution_success"
        )
    assert executor.said == ["execution_start", "execution_cached", "execution_success"]


def test_the_next_prompt_is_the_next_run(comfyui: FakeExecution) -> None:
    executor = comfyui.executor()
    for _ in range(2):
        with comfyui.executing(executor, graph()) as executing:
            executing.run("1", "2", "10:3", "4")
            succeed(executor)
    first, second = newest(), telemetry.history.reports()[1]
    assert first.run_id != second.run_id
    assert [len(report.stages) for report in (first, second)] == [4, 4]


def test_an_error_ends_the_run_at_its_node(comfyui: FakeExecution) -> None:
    executor = comfyui.executor()
    with comfyui.executing(executor, graph()) as executing:
        executing.run("1")
        executing.start("2")
        fail(executor, "2", "comfy.errors.OutOfCats", "no cat\nTIPS: none\n")
    report = newest()
    assert (report.status, report.error) == (Status.FAILED, "OutOfCats: no cat\nTIPS: none")
    assert statuses(report) == {"1": Status.SUCCEEDED, "2": Status.FAILED}
    assert report.stages[-1].error == report.error


def test_an_interrupt_ends_the_run_as_cancelled(comfyui: FakeExecution) -> None:
    executor = comfyui.executor()
    with comfyui.executing(executor, graph()) as executing:
        executing.start("1")
        interrupt(executor, "1")
    report = newest()
    assert (report.status, report.error) == (Status.CANCELLED, None)
    assert statuses(report) == {"1": Status.CANCELLED}


def test_nodes_that_a_node_expands_into_are_a_part_of_it_and_fail_as_themselves(
    comfyui: FakeExecution,
) -> None:
    executor = comfyui.executor()
    with comfyui.executing(executor, graph()) as executing:
        executing.run("1")
        executing.start("2")
        executing.expand(
            "2", a={"class_type": "Loader", "inputs": {}}, b={"class_type": "Loader", "inputs": {}}
        )
        executing.run("a")
        executing.start("b")
        fail(executor, "2")  # ComfyUI names the node that the user sees
    report = newest()
    assert [stage.parent for stage in report.stages] == [None, None, 1, 1]
    assert statuses(report) == {
        "1": Status.SUCCEEDED,
        "2": Status.FAILED,
        "a": Status.SUCCEEDED,
        "b": Status.FAILED,
    }


def test_of_several_at_the_same_time_none_is_blamed_for_the_error_of_another(comfyui: FakeExecution) -> None:
    executor = comfyui.executor()
    with comfyui.executing(executor, graph()) as executing:
        executing.start("2")
        sampler = {"class_type": "Sampler", "inputs": {}}
        executing.expand("2", a=sampler, b=sampler)
        executing.start("a", "b")
        fail(executor, "2")
    assert newest().status is Status.FAILED
    assert statuses(newest()) == {"2": Status.FAILED, "a": Status.CANCELLED, "b": Status.CANCELLED}


def test_a_prompt_that_never_ends_ends_with_the_next_one(comfyui: FakeExecution) -> None:
    executor = comfyui.executor()
    with comfyui.executing(executor, graph()) as executing:
        executing.start("1")
    with comfyui.executing(executor, graph()):
        succeed(executor)
    newest()
    lost = telemetry.history.reports()[1]
    assert lost.status is Status.FAILED
    assert lost.error == "ComfyUI did not say how it ended: its log may tell why"


def test_a_prompt_within_another_ones_node_is_a_run_of_its_own(comfyui: FakeExecution) -> None:
    outer, inner = comfyui.executor(), comfyui.executor()
    with comfyui.executing(outer, graph()) as executing:
        executing.start("1")
        with comfyui.executing(inner, {"1": {"class_type": "Loader", "inputs": {}}}) as within:
            within.run("1")
            succeed(inner)
        comfyui.registry = executing
        executing.finish("1")
        succeed(outer)
    newest()
    assert [len(report.stages) for report in telemetry.history.reports()[:2]] == [1, 1]
    assert [report.status for report in telemetry.history.reports()[:2]] == [Status.SUCCEEDED] * 2


def test_what_is_told_of_a_node_that_is_not_executed_is_passed_over(comfyui: FakeExecution) -> None:
    """A thread that a node has left behind still moves its bar, and may not know of which node it is."""
    executor = comfyui.executor()
    with comfyui.executing(executor, graph()) as executing:
        executing.update(None, 1, 2)
        executing.run("1")
        executing.update("1", 1, 2)
        succeed(executor)
    assert [len(stage.steps) for stage in newest().stages] == [0]


@pytest.mark.parametrize(
    "changed",
    [graph(words="a dog"), graph(noise=2), {**graph(), "9": {"class_type": "Loader", "inputs": {}}}],
)
def test_prompts_that_differ_in_content_alone_are_alike(comfyui: FakeExecution, changed: Prompt) -> None:
    assert fingerprint(comfyui, changed) == fingerprint(comfyui, graph())


@pytest.mark.parametrize("changed", [graph(file="b.safetensors"), graph(steps=21)])
def test_prompts_with_other_models_or_steps_are_not(comfyui: FakeExecution, changed: Prompt) -> None:
    assert fingerprint(comfyui, changed) != fingerprint(comfyui, graph())


def fingerprint(comfyui: FakeExecution, prompt: Prompt) -> Any:
    executor = comfyui.executor()
    with comfyui.executing(executor, prompt):
        succeed(executor)
    found = newest().params["workflow"]
    assert isinstance(found, str)
    assert len(found) == 12
    return found


class Folders(ModuleType):
    """ComfyUI's `folder_paths`."""

    def __init__(self, root: Path) -> None:
        super().__init__("folder_paths")
        self.root = root

    def get_directory_by_type(self, type_name: str) -> str:
        return str(self.root / type_name)


@pytest.fixture
def saving(tmp_path: Path) -> tuple[FakeExecution, Path]:
    """A ComfyUI that is followed, and where its output goes."""
    fake = FakeExecution(CLASSES)
    follow_prompts({**modules(fake), "folder_paths": Folders(tmp_path)})
    for name in ("output/sub", "temp", "input"):
        (tmp_path / name).mkdir(parents=True)
    return fake, tmp_path


def saved(name: str, subfolder: str = "", type_: str = "output") -> dict[str, str]:
    return {"filename": name, "subfolder": subfolder, "type": type_}


def test_a_run_has_what_its_nodes_saved_and_a_picture_of_it_and_its_workflow(
    saving: tuple[FakeExecution, Path],
) -> None:
    comfyui, root = saving
    executor, drawn = comfyui.executor(), {"nodes": [], "id": "1"}
    with telemetry.bus.subscribe() as subscription:
        with comfyui.executing(executor, graph(), extra_data={"extra_pnginfo": {"workflow": drawn}}):
            (root / "output/sub/cat.mp4").write_bytes(b"a video")
            (root / "output/cat.png").write_bytes(b"a picture")
            (root / "temp/cat.png").write_bytes(b"a preview")
            succeed(executor)
        assert newest().output is None, "ComfyUI has not told yet"
        comfyui.prompt_queue.history["prompt"] = {
            "outputs": {
                "4": {"images": [saved("cat.mp4", "sub")], "animated": (True,)},
                "5": {"images": [saved("cat.png"), saved("cat.png", type_="temp")], "text": ["a cat"]},
            }
        }
        report = newest()
        events = subscription.drain()
    assert report.output == str((root / "output/sub/cat.mp4").resolve())
    attachments = {
        event.attachment.kind: event.attachment
        for event in events
        if isinstance(event, telemetry.RunAttached) and event.run_id == report.run_id
    }
    assert attachments.keys() == {"workflow", "thumbnail"}
    body = attachments["workflow"].make()
    assert body is not None
    assert json.loads(gzip.decompress(body)) == drawn


@pytest.mark.parametrize(
    "named",
    [
        saved("secret.png", ".."),
        saved("../secret.png"),
        saved("link.png"),
        saved("mine.png", type_="input"),
        saved("old.png"),
        saved("notes.txt"),
        saved("none.png"),
        {"filename": "a.png"},
        {"filename": 7, "subfolder": "", "type": "output"},
    ],
)
def test_what_a_run_did_not_make_in_comfyuis_folders_is_not_its_result(
    saving: tuple[FakeExecution, Path], named: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    comfyui, root = saving
    for name in ("secret.png", "input/mine.png", "output/old.png", "output/notes.txt", "output/a.png"):
        (root / name).touch()
    (root / "output/link.png").symlink_to(root / "secret.png")
    os.utime(root / "output/old.png", (1e9, 1e9))
    executor = comfyui.executor()
    with comfyui.executing(executor, graph()):
        succeed(executor)
    comfyui.prompt_queue.history["prompt"] = {"outputs": {"4": {"images": [named]}}}
    assert newest().output is None
    assert caplog.messages == []


def test_a_queue_that_tells_nothing_leaves_unknown_what_it_would_have_told(
    comfyui: FakeExecution, caplog: pytest.LogCaptureFixture
) -> None:
    executor = comfyui.executor()
    comfyui.prompt_queue.currently_running = None
    executor.add_message("execution_start", {"prompt_id": "prompt"}, broadcast=False)
    comfyui.registry = Executing(DynamicPrompt(graph()))
    executor.add_message("execution_cached", {"nodes": [], "prompt_id": "prompt"}, broadcast=False)
    comfyui.registry.run("1")
    succeed(executor)
    report = newest()
    assert (report.name, report.nodes_total, len(report.stages)) == (None, None, 1)
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "the queue does not tell what came with the prompt"
    ]


@pytest.mark.parametrize("broken", ["get_progress_state", "add_progress_handler"])
def test_what_fails_in_it_is_one_warning_a_prompt_and_comfyui_goes_on(
    comfyui: FakeExecution, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any) -> None:
        raise OSError("another version")

    setattr(comfyui.progress, broken, fails)
    executor = comfyui.executor()
    with comfyui.executing(executor, graph()) as executing:
        executing.run("1")
        succeed(executor)
    assert executor.said[-1] == "execution_success"
    assert caplog.messages == ["what ComfyUI executes could not be recorded: OSError: another version"]


def test_a_handler_that_fails_is_one_warning_and_changes_nothing(
    comfyui: FakeExecution, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any) -> None:
        raise OSError("no clock")

    monkeypatch.setattr(telemetry.WorkflowRun, "node_started", fails)
    executor = comfyui.executor()
    with comfyui.executing(executor, graph()) as executing:
        executing.run("1", "2")
        succeed(executor)
    assert newest().status is Status.SUCCEEDED
    assert caplog.messages == ["what ComfyUI executes could not be recorded: OSError: no clock"]


@pytest.mark.parametrize("missing", ["execution", "comfy_execution.progress", "nodes"])
def test_a_comfyui_that_tells_nothing_is_left_as_it_is_and_the_log_says_so(
    missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    fake = FakeExecution()
    there = {name: module for name, module in modules(fake).items() if name != missing}
    with caplog.at_level(logging.INFO):
        follow_prompts(there)
    assert "add_message" not in vars(fake.execution.PromptExecutor)
    (line,) = caplog.messages
    assert line.startswith("this ComfyUI tells nobody of the nodes that it executes (0.3.44 does): ")


def test_the_history_holds_nothing_of_a_prompt_that_has_ended(comfyui: FakeExecution) -> None:
    """A node that expands may hand tensors to the nodes that it expands into."""

    class Tensor:
        held: ClassVar[list[weakref.ref[Any]]] = []

    executor = comfyui.executor()
    with comfyui.executing(executor, graph()) as executing:
        tensor = Tensor()
        Tensor.held.append(weakref.ref(tensor))
        executing.start("1")
        executing.expand("1", a={"class_type": "Loader", "inputs": {"image": tensor}})
        executing.run("a")
        executing.finish("1")
        succeed(executor)
    newest()
    del tensor, executing
    comfyui.registry = None
    gc.collect()
    assert [held() for held in Tensor.held] == [None]
