"""What ComfyUI shows of a node while it works, and its Cancel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from crystools_pipelines.parallel.mesh_shape import MeshShape
from crystools_pipelines.planning import forecasting
from crystools_tpu import telemetry
from crystools_tpu.comfyui import nodes
from crystools_tpu.comfyui.progress import node_progress
from crystools_tpu.telemetry import Forecast, Node, NodeFacts, StageForecast, StageName, Status
from tests.planning.plans import made_up_plan, made_up_stage
from tests.web.scenes import Clock, Output, V6eChip


class InterruptProcessingException(Exception):
    """As ComfyUI calls it."""


@dataclass
class Page:
    """Stands in for ComfyUI's modules; keeps what its page would show."""

    client_id: str | None = "a page"
    bars: list[tuple[int, int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    cancel_after: int | None = None
    stepped: int = 0

    def modules(self) -> dict[str, ModuleType]:
        server, utils = ModuleType("server"), ModuleType("comfy.utils")
        management = ModuleType("comfy.model_management")
        server.PromptServer = SimpleNamespace(instance=self)  # type: ignore[attr-defined]
        utils.ProgressBar = lambda total: self  # type: ignore[attr-defined]
        management.InterruptProcessingException = InterruptProcessingException  # type: ignore[attr-defined]
        management.throw_exception_if_processing_interrupted = self.check  # type: ignore[attr-defined]
        return {module.__name__: module for module in (server, utils, management)}

    def update_absolute(self, value: int, total: int) -> None:
        self.bars.append((value, total))

    def send_progress_text(self, text: str, node_id: str, sid: str) -> None:
        assert (node_id, sid) == ("7", self.client_id)
        self.texts.append(text)

    def check(self) -> None:
        self.stepped += 1
        if self.stepped == self.cancel_after:
            raise InterruptProcessingException


def work(on_step: Callable[[], None], steps: int = 3) -> None:
    """A run as a sampler's, of two stages."""
    with telemetry.run("wan2.2-i2v") as run:
        for component, share in (("transformer", 1), ("transformer_2", steps - 1)):
            with run.stage(StageName.DENOISE, component=component, steps=share) as stage:
                for _ in range(share):
                    stage.step(None)
                    on_step()


def test_the_bar_of_a_whole_pipeline_counts_the_steps_of_its_denoising_alone() -> None:
    page, clock = Page(), Clock()
    stages = ((StageName.TEXT_ENCODE, 1, 9.0), (StageName.DENOISE, 2, 1.5), (StageName.VAE_DECODE, 3, 4.0))
    with (
        node_progress("7", page.modules(), steps=2, clock=clock.monotonic) as on_step,
        telemetry.run("wan2.1-t2v", clock=clock.monotonic) as run,
    ):
        for name, steps, seconds in stages:
            with run.stage(name, steps=steps) as stage:
                for _ in range(steps):
                    stage.step(output := Output(clock, seconds, True))
                    assert output.recorded.wait(10)
                    on_step()
    assert page.bars[0][1] == 2
    assert page.bars[-1] == (2, 2)
    assert any(text.startswith("vae_decode: step 3/3, ") for text in page.texts)
    assert page.texts[-1] == "24.0 s, 1.50 s a step"


def described(node_id: str) -> NodeFacts:
    return NodeFacts(Node(node_id, "Wan21TPUSampler", None))


def test_the_bar_counts_all_steps_of_the_run_and_the_text_says_stage_seconds_and_eta() -> None:
    page = Page()
    with node_progress("7", page.modules(), steps=3) as on_step:
        work(on_step)
    assert page.bars[-1] == (3, 3)
    assert [total for _, total in page.bars] == [3, 3, 3, 3]
    assert [value for value, _ in page.bars] == sorted(value for value, _ in page.bars)
    assert page.texts[0] == "denoise transformer: ..."
    assert "denoise transformer_2: ..." in page.texts
    first_of_two = next(text for text in page.texts if text.startswith("denoise transformer_2: step 1/2, "))
    assert " left of denoise" in " ".join(first_of_two.split())
    assert max(len(line) for text in page.texts for line in text.splitlines()) <= 44
    assert not any("left of denoise" in text for text in page.texts if "step 2/2" in text)


def test_after_its_end_a_node_says_what_it_took_a_step_and_how_well() -> None:
    page, clock = Page(), Clock()
    with (
        node_progress("7", page.modules(), clock=clock.monotonic),
        telemetry.run("wan2.1-t2v", devices=[V6eChip(0)], clock=clock.monotonic) as run,
        run.stage(StageName.DENOISE, steps=4, flops_per_step=9.248e13, flops_method="architecture") as stage,
    ):
        for number in range(4):
            stage.step(output := Output(clock, 1.46, number < 3))
            assert output.recorded.wait(10)
        clock.seconds += 31.46
    assert page.texts[-1].splitlines() == [
        "37.3 s, 1.46 s a step, MFU 6.9%, NaN from",
        "step 3 of denoise",
    ]


def test_a_node_that_failed_says_after_how_many_steps_or_in_what() -> None:
    page = Page()
    with pytest.raises(ZeroDivisionError), node_progress("7", page.modules(), clock=Clock().monotonic):
        with telemetry.run("wan2.1-t2v") as run, run.stage(StageName.LOAD, component="transformer"):
            raise ZeroDivisionError
    assert page.texts[-1].split("\n") == ["failed in load transformer, after 0.000 s"]


def test_a_forecast_is_the_first_eta_and_what_will_not_fit_stays_on_the_node() -> None:
    page = Page()
    denoise = StageForecast(StageName.DENOISE, None, False, 4.5, None)
    forecast = Forecast("an estimate", None, (denoise,), ("720 x 1280, 49 frames",))
    with node_progress("7", page.modules()), telemetry.run("wan2.1-t2v", forecast=forecast) as run:
        with run.stage(StageName.DENOISE, steps=50):
            pass
    warning = "does not fit by an estimate: denoise; 720 x 1280, 49 frames would fit"
    first, last = ([" ".join(text.split("\n"))] for text in page.texts)
    assert first == [f"denoise: 3:45 left of denoise by the forecast {warning}"]
    assert last[0].endswith(f" s {warning}")


def test_what_a_run_warns_of_stays_on_the_node() -> None:
    page = Page()
    with node_progress("7", page.modules()), telemetry.run("flux.2") as run:
        with run.stage(StageName.LOAD, component="text_encoder"):
            pass
        run.warn("prompt: it is cut")
        with run.stage(StageName.TEXT_ENCODE):
            pass
    assert page.texts[:2] == ["load text_encoder: ...", "text_encode: ...\nprompt: it is cut"]
    assert page.texts[2].endswith(" s\nprompt: it is cut")


def test_within_a_workflow_a_node_shows_its_own_part_and_nothing_of_the_others() -> None:
    def forecast(what: StageName) -> Forecast:
        return Forecast("an estimate", None, (StageForecast(what, None, False, None, None),))

    page = Page()
    others = telemetry.workflow_run("comfyui", describe=described)
    others.node_started("7")
    workflow = telemetry.workflow_run("comfyui", describe=described)
    workflow.node_started("6")
    with telemetry.run("wan2.1-t2v", forecast=forecast(StageName.TEXT_ENCODE)) as run:
        run.warn("prompt: it is cut")
    workflow.node_finished("6")
    workflow.node_started("7")
    with node_progress("7", page.modules(), steps=2) as on_step:
        with telemetry.run("wan2.1-t2v", forecast=forecast(StageName.DENOISE)) as run:
            assert run.run_id == workflow.run_id
            others.node_finished("7")
            others.finish()
            others.join()
            with run.stage(StageName.DENOISE, steps=2) as stage:
                for _ in range(2):
                    stage.step(None)
                    on_step()
    workflow.node_finished("7")
    workflow.finish()
    workflow.join()
    assert page.bars[-1] == (2, 2)
    first, *steps, _ = page.texts
    assert first == "denoise: ...\ndoes not fit by an estimate: denoise"
    assert [text.partition(",")[0] for text in steps] == ["denoise: step 1/2", "denoise: step 2/2"]


def test_of_a_download_the_text_says_bytes_rate_and_time_to_go() -> None:
    page = Page()
    with node_progress("7", page.modules()), telemetry.run("wan2.1-t2v") as run:
        with run.stage(StageName.DOWNLOAD, bytes_total=4 * 2**30) as stage:
            stage.transferred(2**30)
    assert page.texts[:-1] == ["download: ...", "download: 1.00 GiB of 4.00 GiB"]


def test_cancel_ends_the_run_within_the_step_and_as_cancelled() -> None:
    page = Page(cancel_after=2)
    others = telemetry.bus._subscriptions
    with pytest.raises(InterruptProcessingException):
        with node_progress("7", page.modules(), steps=100) as on_step:
            work(on_step, steps=100)
    report = telemetry.history.reports()[0]
    assert report.status is Status.CANCELLED
    assert [len(stage.steps) for stage in report.stages] == [1, 1]
    assert telemetry.outcome(report) == "cancelled after 1 of 99 steps"
    assert page.texts[-1].startswith("cancelled after 2 of 100 steps, in ")
    assert telemetry.bus._subscriptions == others


def test_a_client_that_opened_no_page_is_sent_no_text() -> None:
    page = Page(client_id=None)
    with node_progress("7", page.modules(), steps=3) as on_step:
        work(on_step)
    assert page.texts == []
    assert page.bars[-1] == (3, 3)


def test_outside_of_comfyui_nothing_is_shown() -> None:
    with node_progress("7", {}) as on_step:
        work(on_step)
    assert telemetry.history.reports()[0].status is Status.SUCCEEDED


@pytest.mark.usefixtures("compile_cache")
def test_a_sampler_stops_within_one_step(tiny_wan21: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    from crystools_pipelines.nodes.handed import Embeddings

    page = Page(cancel_after=2)
    monkeypatch.setattr(nodes, "node_progress", partial(node_progress, modules=page.modules()))
    made_up = made_up_plan(made_up_stage("vae_decode", fits=False, peak_gib=40), mesh=MeshShape())
    monkeypatch.setattr(forecasting, "read_plans", lambda folder, spec: [made_up])
    monkeypatch.setattr(forecasting, "topology_of", lambda devices: "v6e-1")
    embeddings = Embeddings("wan2.1-t2v", str(tiny_wan21), "a cat", np.zeros((1, 512, 64), np.float32))
    settings: dict[str, Any] = {"height": 32, "width": 32, "num_frames": 1, "num_inference_steps": 100}
    sampler = nodes.NODE_CLASS_MAPPINGS["Wan21TPUSampler"]()
    with pytest.raises(InterruptProcessingException):
        sampler.sample(
            unique_id="7",
            prompt_embeds=embeddings,
            negative_prompt_embeds=embeddings,
            model_id=str(tiny_wan21),
            guidance_scale=1.0,
            flow_shift=5.0,
            seed=1,
            num_devices=1,
            **settings,
        )
    report = telemetry.history.reports()[0]
    assert report.status is Status.CANCELLED
    assert len(report.stages[-1].steps) == 2
    assert page.bars[-1][1] == 100
    assert " ".join(page.texts[0].split()) == (
        "load transformer: ... "
        "does not fit by the TPU compiler's own estimate: vae_decode wants 40.00 GiB of a chip's 31.00 GiB"
    )


@pytest.mark.parametrize("broken", ["update_absolute", "send_progress_text", "ProgressBar"])
def test_a_page_that_cannot_be_told_is_one_warning_and_the_node_goes_on(
    broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any) -> None:
        raise OSError("the socket is gone")

    page = Page()
    modules = page.modules()
    if broken == "ProgressBar":
        modules["comfy.utils"].ProgressBar = fails  # type: ignore[attr-defined]
    else:
        setattr(page, broken, fails)
    with node_progress("7", modules) as on_step:
        work(on_step)
    assert telemetry.history.reports()[0].status is Status.SUCCEEDED
    assert caplog.messages == ["ComfyUI could not be told how the node gets on: OSError: the socket is gone"]


def test_a_cancel_is_heard_where_the_bar_cannot_be_moved() -> None:
    def fails(*_: Any) -> None:
        raise OSError("the socket is gone")

    page = Page(cancel_after=1)
    page.update_absolute = fails  # type: ignore[method-assign, assignment]
    with pytest.raises(InterruptProcessingException), node_progress("7", page.modules()) as on_step:
        work(on_step)
    assert telemetry.history.reports()[0].status is Status.CANCELLED
