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
from crystools_tpu.server.security import bounded_body, refusal
from crystools_tpu.server.settings import FieldError, parse_object
from crystools_tpu.telemetry.guard import Guard

logger = logging.getLogger(__name__)

ADDRESS: Final = "/crystools-tpu/workflow"

_MOST_CHARACTERS: Final = 1000
_MOST_PAGES: Final = 1000
_FIELDS: Final = ("client_id", "id", "name")


def take_workflow_names(prompt_server: Any) -> None:
    """Answers pages on ComfyUI's server, before the panel is mounted there, and names what they queue."""
    names = WorkflowNames()
    for prefix in ("", "/api"):
        prompt_server.app.router.add_post(f"{prefix}{ADDRESS}", names.tell)
    if hasattr(prompt_server, "add_on_prompt_handler"):
        prompt_server.add_on_prompt_handler(names.name_prompt)


class WorkflowNames:
    """The workflow that each page has open, by the id that ComfyUI knows the page by."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._guard = Guard(logger)

    async def tell(self, request: web.Request) -> web.Response:
        """Takes what a page has open: its `client_id`, the workflow's `id` and its `name`."""
        if request.content_type != "application/json":  # another site's page would have to ask for leave
            raise refusal(web.HTTPUnsupportedMediaType, "body", "body must be application/json")
        try:
            told = parse_object(await bounded_body(request))
        except FieldError as error:
            raise refusal(web.HTTPBadRequest, error.field, str(error)) from None
        for field in _FIELDS:
            if type(told.get(field)) is not str or not 0 < len(told[field]) <= _MOST_CHARACTERS:
                text = f"{field} must be a text of 1 to {_MOST_CHARACTERS} characters"
                raise refusal(web.HTTPBadRequest, field, text)
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
