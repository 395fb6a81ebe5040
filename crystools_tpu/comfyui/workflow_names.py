"""What the page calls the workflow that it queues.

The page tells us at an address of our own, which is no message on ComfyUI's socket and nothing in the user's
file. ComfyUI's hook for prompts that are queued then puts the name into `extra_data`, beside the prompt.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Any, Final

from aiohttp import web

from crystools_tpu.comfyui.prompts import EXTRA_DATA
from crystools_tpu.telemetry.guard import Guard

logger = logging.getLogger(__name__)

ADDRESS: Final = "/crystools-tpu/workflow"

_MOST_BYTES: Final = 4096
_MOST_PAGES: Final = 1000
_FIELDS: Final = ("client_id", "id", "name")


class WorkflowNames:
    """The workflow that each page has open, by the id that ComfyUI knows the page by."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._guard = Guard(logger)

    async def tell(self, request: web.Request) -> web.Response:
        """Takes what a page has open: its `client_id`, the workflow's `id` and its `name`."""
        if request.content_type != "application/json":  # another site's page would have to ask for leave
            raise web.HTTPUnsupportedMediaType(text="the body must be application/json")
        if (request.content_length or 0) > _MOST_BYTES:
            raise web.HTTPRequestEntityTooLarge(_MOST_BYTES, request.content_length or 0)
        told = await request.json()
        if not isinstance(told, dict) or not all(told.get(f) and type(told[f]) is str for f in _FIELDS):
            raise web.HTTPBadRequest(text=f"the body must be an object with the texts {', '.join(_FIELDS)}")
        client_id, workflow_id, name = (told[field] for field in _FIELDS)
        self._open[client_id] = (workflow_id, name)
        self._open.move_to_end(client_id)
        if len(self._open) > _MOST_PAGES:
            self._open.popitem(last=False)
        return web.Response(status=204)

    def name_prompt(self, queued: dict[str, Any]) -> dict[str, Any]:
        """Names a prompt that a page queues, unless it has another workflow than the page had open last."""
        with self._guard("a workflow's name could not be kept"):
            workflow_id, name = self._open.get(queued.get("client_id", ""), (None, None))
            extra_data = queued.get("extra_data", {})
            if name is not None and extra_data["extra_pnginfo"]["workflow"]["id"] == workflow_id:
                extra_data.setdefault(EXTRA_DATA, {}).setdefault("name", name)
        return queued
