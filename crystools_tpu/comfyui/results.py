"""What is kept of a prompt beside its report: the workflow as ComfyUI's page loads it, and what it made.

What the nodes of a prompt have saved they say in its entry in ComfyUI's history, which is there soon after
its end, whatever client it came from. (`executed` is told to the page that queued it alone.)
"""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from crystools_tpu.telemetry import Attachment
from crystools_tpu.telemetry.guard import Guard
from crystools_tpu.telemetry.workflow import WorkflowRun
from crystools_tpu.thumbnails import thumbnail_of_file

_PATIENCE_SECONDS: Final = 10.0
"""Between a prompt's end and its entry in the history ComfyUI may free models."""

_MOST_WORKFLOW_BYTES: Final = 16 * 1024**2
_CLOCKS_DIFFER_SECONDS: Final = 2.0

_VIDEOS: Final = (".mp4", ".webm")
_PICTURES: Final = (".png", ".jpg", ".jpeg", ".webp", ".gif")


def workflow_of(extra_data: Mapping[str, Any]) -> tuple[Attachment, ...]:
    """The graph that the page sent with the prompt; nothing of a client that sends none."""
    with_picture = extra_data.get("extra_pnginfo")
    workflow = with_picture.get("workflow") if isinstance(with_picture, Mapping) else None
    if not isinstance(workflow, Mapping):
        return ()
    return (Attachment("workflow", "application/gzip", partial(_zipped, workflow)),)


def _zipped(workflow: Mapping[str, Any]) -> bytes | None:
    text = json.dumps(workflow, separators=(",", ":")).encode()
    return gzip.compress(text, 6) if len(text) <= _MOST_WORKFLOW_BYTES else None


class Result:
    """What a prompt that has ended has made, looked for in the thread that follows workflows."""

    def __init__(
        self,
        run: WorkflowRun,
        prompt_id: str,
        modules: Mapping[str, ModuleType],
        guard: Guard,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._prompt_id = prompt_id
        self._modules = modules
        self._guard = guard
        self._monotonic = monotonic
        self._give_up_at = monotonic() + _PATIENCE_SECONDS

    def look(self) -> bool:
        """Tells of the file, once ComfyUI has told of it; whether there is nothing more to wait for."""
        with self._guard("what a workflow has saved is not known"):
            server: Any = self._modules["server"]
            entry = server.PromptServer.instance.prompt_queue.history.get(self._prompt_id)
            if entry is None:
                return self._monotonic() > self._give_up_at
            if (path := self._newest(entry["outputs"])) is not None:
                self._run.made(str(path))
                self._run.attach(thumbnail_of_file(path))
        return True

    def _newest(self, outputs: Mapping[str, Mapping[str, Any]]) -> Path | None:
        """The last video that the run wrote, or else picture; rather one that is saved than a preview."""
        since = self._run.report.started_unix_seconds - _CLOCKS_DIFFER_SECONDS
        ranked = [
            (is_kept, path.suffix.lower() in _VIDEOS, path.stat().st_mtime, path)
            for is_kept, path in self._saved(outputs)
            if path.suffix.lower() in (*_VIDEOS, *_PICTURES) and path.stat().st_mtime >= since
        ]
        return max(ranked)[-1] if ranked else None

    def _saved(self, outputs: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[bool, Path]]:
        """The files that nodes say they saved, and whether to be kept."""
        for of_node in outputs.values():
            for saved in of_node.values():
                for each in saved if isinstance(saved, list | tuple) else ():
                    if isinstance(each, Mapping) and (path := self._path(each)) is not None:
                        yield each["type"] == "output", path

    def _path(self, saved: Mapping[str, Any]) -> Path | None:
        """The file, if it is one in ComfyUI's own folder for results: no node is believed anything else."""
        folders: Any = self._modules["folder_paths"]
        names = [saved.get(name, "") for name in ("subfolder", "filename")]
        if saved.get("type") not in ("output", "temp") or not all(isinstance(name, str) for name in names):
            return None
        root = Path(folders.get_directory_by_type(saved["type"])).resolve()
        path = root.joinpath(*names).resolve()
        return path if path.is_relative_to(root) and path.is_file() else None
