"""Previews of a sampler's latents, as ComfyUI shows those of its own: by its setting, with its previewers."""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextvars import copy_context
from types import ModuleType
from typing import Any, Final, TypeAlias

from crystools_tpu.telemetry.guard import Guard

Picture: TypeAlias = tuple[str, Any, int | None]
"""As ComfyUI's bars take it: the format to send it in, a PIL image, and how large it may become."""

_log = logging.getLogger(__name__)
_NOT_SHOWN: Final = "the latents could not be previewed"

PAUSE_SECONDS: Final = 0.5
"""From one picture to the next, and before the first: what ComfyUI itself does with one is not measured."""
PAUSE_FOR_EACH_SECOND: Final = 100
"""How long nothing is shown for each second that a picture took, which makes it one percent of the time."""


def previews_of(
    latent_format: str | None, modules: Mapping[str, ModuleType] = sys.modules
) -> Previews | None:
    """The previews of a node whose latents have this one of ComfyUI's formats, as its setting stands now.

    None where nothing is to be shown: the setting is off, this ComfyUI does not know the format, the prompt
    came from a client without a page, or no ComfyUI runs. What `--preview-method` asks for is ComfyUI's own
    to decide, and what it decodes with, its own, too.
    """
    server = getattr(getattr(modules.get("server"), "PromptServer", None), "instance", None)
    own, formats = modules.get("latent_preview"), modules.get("comfy.latent_formats")
    known = None if latent_format is None else getattr(formats, latent_format, None)
    guard = Guard(_log)
    with guard(_NOT_SHOWN):
        if server is None or own is None or known is None or server.client_id is None:
            return None
        import torch

        previewer = own.get_previewer(torch.device("cpu"), known())
        if previewer is not None:
            interrupted = getattr(modules.get("comfy.model_management"), "InterruptProcessingException", ())
            return Previews(previewer, lambda: _listens(server), guard, interrupted)
    return None


def _listens(server: Any) -> bool:
    """Whether the page that queued the prompt is there."""
    return server.client_id is not None and server.client_id in server.sockets


class Previews:
    """The pictures of one execution of a node, so few that they take at most a hundredth of its time.

    `on_latents` and `newest` are called in the thread that executes the node, and wait for nothing: a thread
    for each picture waits for the latents, and decodes them.
    """

    def __init__(
        self,
        previewer: Any,
        listens: Callable[[], bool],
        guard: Guard,
        interrupted: type[BaseException] | tuple[()] = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._previewer = previewer
        self._listens = listens
        self._guard = guard
        self._interrupted = interrupted
        self._clock = clock
        self._coming: Future[tuple[Picture | None, float]] | None = None
        self._due: float | None = None
        """When the next picture may be begun."""

    def on_latents(self, preview: Callable[[], Any]) -> None:
        """After each step: begins a picture of its latents, which `preview` gives, if it is time for one."""
        now = self._clock()
        if self._due is None:
            self._due = now + PAUSE_SECONDS
        if self._coming is not None or now < self._due or not self._listens():
            return
        latents = preview()
        self._coming = Future()
        work = threading.Thread(
            target=copy_context().run,
            args=(self._decode, latents, self._clock() - now, self._coming),
            name="crystools-tpu-preview",
            daemon=True,
        )
        work.start()

    def newest(self) -> Picture | None:
        """What to show with the bar, once; None where nothing is new.

        After a failure nothing more is shown. An interrupt that the previewer was told of is raised here.
        """
        if self._coming is None or not self._coming.done():
            return None
        coming, self._coming = self._coming, None
        self._due = math.inf
        if isinstance(error := coming.exception(), self._interrupted):
            raise error
        with self._guard(_NOT_SHOWN):
            picture, seconds = coming.result()
            self._due = self._clock() + max(PAUSE_SECONDS, PAUSE_FOR_EACH_SECOND * seconds)
            return picture
        return None

    def _decode(self, latents: Any, seconds: float, coming: Future[tuple[Picture | None, float]]) -> None:
        """The picture, and its seconds, those so far among them; waiting for the device is no work."""
        try:
            import numpy as np
            import torch

            values = np.array(latents)
            began = self._clock()
            with torch.inference_mode():
                picture = self._previewer.decode_latent_to_preview_image("JPEG", torch.from_numpy(values))
            coming.set_result((picture, seconds + self._clock() - began))
        except BaseException as error:  # noqa: BLE001 - whatever it is, `newest` takes it
            coming.set_exception(error)
