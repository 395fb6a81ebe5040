"""Previews of latents: when ComfyUI wants them, how often they come, and one that fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from crystools_tpu import telemetry
from crystools_tpu.comfyui.previews import Previews, previews_of
from crystools_tpu.comfyui.progress import node_progress
from crystools_tpu.telemetry import StageName, Status


class InterruptProcessingException(Exception):
    """As ComfyUI calls it."""


class Wan21:
    """The format of latents, as ComfyUI calls it."""


@dataclass
class ComfyUI:
    """Stands in for ComfyUI's modules, with a previewer whose pictures are the latents that it was given."""

    client_id: str | None = "a page"
    sockets: dict[str, Any] = field(default_factory=lambda: {"a page": None})
    asked_for: bool = True
    seconds: float = 0.001
    """How long a picture takes."""
    now: float = 100.0
    error: Exception | None = None
    bars: list[tuple[Any, ...]] = field(default_factory=list)

    def modules(self) -> dict[str, ModuleType]:
        server, utils = ModuleType("server"), ModuleType("comfy.utils")
        management, formats = ModuleType("comfy.model_management"), ModuleType("comfy.latent_formats")
        own = ModuleType("latent_preview")
        server.PromptServer = SimpleNamespace(instance=self)  # type: ignore[attr-defined]
        utils.ProgressBar = lambda total: self  # type: ignore[attr-defined]
        management.InterruptProcessingException = InterruptProcessingException  # type: ignore[attr-defined]
        management.throw_exception_if_processing_interrupted = lambda: None  # type: ignore[attr-defined]
        formats.Wan21 = Wan21  # type: ignore[attr-defined]
        own.get_previewer = self.get_previewer  # type: ignore[attr-defined]
        return {module.__name__: module for module in (server, utils, management, formats, own)}

    def get_previewer(self, device: Any, latent_format: Any) -> ComfyUI | None:
        assert (device.type, type(latent_format)) == ("cpu", Wan21)
        return self if self.asked_for else None

    def decode_latent_to_preview_image(self, preview_format: str, x0: Any) -> tuple[str, Any, int]:
        self.now += self.seconds
        if self.error is not None:
            raise self.error
        return preview_format, x0.tolist(), 512

    def update_absolute(self, value: int, total: int, preview: Any = None) -> None:
        self.bars.append((value, total, preview))

    def send_progress_text(self, text: str, node_id: str, sid: str) -> None:
        pass

    def previews(self) -> Previews:
        previews = previews_of("Wan21", self.modules())
        assert previews is not None
        previews._clock = lambda: self.now
        return previews


def one() -> Any:
    return np.ones(1, np.float32)


def step(previews: Previews, latents: Callable[[], Any] = one) -> None:
    """A step, and whatever picture is in work after it."""
    previews.on_latents(latents)
    for thread in threading.enumerate():
        if thread.name == "crystools-tpu-preview":
            thread.join()


def shown(previews: Previews, latents: Callable[[], Any] = one) -> Any:
    """The picture that comes of a step."""
    step(previews, latents)
    return previews.newest()


@pytest.mark.parametrize(
    ("comfyui", "latent_format"),
    [
        (ComfyUI(asked_for=False), "Wan21"),
        (ComfyUI(client_id=None), "Wan21"),
        (ComfyUI(), None),
        (ComfyUI(), "Flux2"),
    ],
    ids=["the setting is off", "a client without a page", "no format", "a format that this ComfyUI lacks"],
)
def test_nothing_is_previewed_where_comfyui_shows_nothing(
    comfyui: ComfyUI, latent_format: str | None
) -> None:
    assert previews_of(latent_format, comfyui.modules()) is None


def test_outside_of_comfyui_nothing_is_previewed() -> None:
    assert previews_of("Wan21", {}) is None


def test_a_picture_is_what_comfyuis_previewer_makes_of_the_latents_and_is_shown_once() -> None:
    comfyui = ComfyUI()
    previews = comfyui.previews()
    latents = np.arange(8, dtype=np.float32).reshape(1, 2, 1, 2, 2)
    assert shown(previews) is None
    comfyui.now += 0.5
    assert shown(previews, lambda: latents) == ("JPEG", latents.tolist(), 512)
    assert previews.newest() is None


@pytest.mark.parametrize(
    ("seconds_of_a_picture", "seconds_of_a_step", "shown_at"),
    [
        (2**-10, 0.125, [4, 8, 12]),  # two a second
        (2**-6, 0.125, [4, 17, 30]),  # a hundred times 15.6 ms are twelve and a half steps
        (1.0, 32.0, [1, 5, 9]),  # a decoder of a second, every 128
    ],
)
def test_pictures_take_at_most_one_percent_of_the_time(
    seconds_of_a_picture: float, seconds_of_a_step: float, shown_at: list[int]
) -> None:
    comfyui = ComfyUI(seconds=seconds_of_a_picture)
    previews = comfyui.previews()
    seen = []
    for number in range(shown_at[-1] + 1):
        if shown(previews):
            seen.append(number)
        comfyui.now += seconds_of_a_step
    assert seen == shown_at


def test_of_a_step_that_is_not_shown_nothing_is_made() -> None:
    comfyui = ComfyUI(sockets={})
    previews = comfyui.previews()
    for _ in range(3):  # too early, and then the page is gone
        assert shown(previews, lambda: pytest.fail("made")) is None
        comfyui.now += 1
    comfyui.sockets["a page"] = None
    assert shown(previews)


def test_while_one_picture_is_in_work_no_other_is_begun() -> None:
    comfyui = ComfyUI()
    previews = comfyui.previews()
    step(previews)
    comfyui.now += 1
    there = threading.Event()

    class Slow:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            assert there.wait(10)
            return np.ones(1, np.float32)

    previews.on_latents(Slow)
    assert previews.newest() is None  # and the host went on
    comfyui.now += 1
    previews.on_latents(lambda: pytest.fail("begun"))
    there.set()
    assert shown(previews)


def test_the_picture_goes_with_the_bar_and_a_bar_without_one_is_as_ever() -> None:
    comfyui = ComfyUI()
    previews = comfyui.previews()
    with node_progress("7", comfyui.modules(), previews=previews) as on_step:
        on_step()
        step(previews)
        comfyui.now += 1
        step(previews)
        on_step()
    assert comfyui.bars == [(0, 1, None), (0, 1, ("JPEG", [1.0], 512)), (0, 1, None)]


def test_a_previewer_that_fails_is_one_warning_and_not_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    comfyui = ComfyUI(error=ValueError("16 channels, not 48"))
    previews = comfyui.previews()
    step(previews)
    comfyui.now += 1
    assert shown(previews) is None
    comfyui.now += 1e6
    assert shown(previews, lambda: pytest.fail("asked again")) is None
    assert caplog.messages == ["the latents could not be previewed: ValueError: 16 channels, not 48"]


def test_where_comfyui_has_no_previewer_to_give_it_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    modules = ComfyUI().modules()

    def broken(*_: Any) -> None:
        raise OSError("taew2_1.safetensors: truncated")

    modules["latent_preview"].get_previewer = broken  # type: ignore[attr-defined]
    assert previews_of("Wan21", modules) is None
    assert caplog.messages == ["the latents could not be previewed: OSError: taew2_1.safetensors: truncated"]


def test_a_cancel_that_the_previewer_hears_of_ends_the_run() -> None:
    comfyui = ComfyUI(error=InterruptProcessingException())
    previews = comfyui.previews()
    with (
        pytest.raises(InterruptProcessingException),
        node_progress("7", comfyui.modules(), previews=previews) as on_step,
        telemetry.run("wan2.1-t2v") as run,
        run.stage(StageName.DENOISE),
    ):
        step(previews)
        comfyui.now += 1
        step(previews)
        on_step()
    assert telemetry.history.reports()[0].status is Status.CANCELLED
