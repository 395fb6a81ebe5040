"""What is left of a run beside its report: its output, and what the history keeps with it."""

from __future__ import annotations

import asyncio
import re
import zlib
from typing import Final

from aiohttp import hdrs, web

from crystools_tpu.server import security, wire
from crystools_tpu.server.output_file import NotShownError, OutputFile, output_file
from crystools_tpu.server.runs import Kept, Runs
from crystools_tpu.telemetry import RunReport
from crystools_tpu.telemetry.events import to_wire
from crystools_tpu.telemetry.labels import short_id

_PICTURES: Final = ("image/jpeg", "image/webp")
_MOST_WORKFLOW_BYTES: Final = 32 * 1024**2
_KEEP_SECONDS: Final = 3600

_HEADERS: Final = {
    # No script, wherever the file comes from, and no page of another site shows it as its own.
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; sandbox; "
        "frame-ancestors 'self'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Results:
    """The handlers of what a run has left. Each says in a sentence why it has nothing to give."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    async def result(self, request: web.Request) -> web.Response:
        """Whether the run's output is served, and what it is."""
        report = await self._report(request)
        answer = wire.RunResult(None, None)
        if report.output:
            try:
                answer = wire.RunResult((await self._file(report)).media_type, None)
            except NotShownError as error:
                answer = wire.RunResult(None, str(error))
        return web.json_response(to_wire(answer), dumps=wire.dumps)

    async def output(self, request: web.Request) -> web.StreamResponse:
        """The run's own output file, whole or a range of it."""
        report = await self._report(request)
        try:
            file = await self._file(report)
        except NotShownError as error:
            raise security.refusal(web.HTTPNotFound, "output", str(error)) from None
        headers = {
            **_HEADERS,
            hdrs.CONTENT_TYPE: file.media_type,
            hdrs.CONTENT_DISPOSITION: f'inline; filename="{file_name(file.path.name)}"',
            hdrs.CACHE_CONTROL: "private, no-cache",
        }
        return web.FileResponse(file.path, headers=headers)

    async def thumbnail(self, request: web.Request) -> web.Response:
        """A small picture of the run's result."""
        kept = await self._kept(request, "thumbnail")
        if kept.media_type not in _PICTURES:
            raise security.refusal(web.HTTPNotFound, "thumbnail", "What is kept with the run is no picture.")
        headers = {hdrs.CACHE_CONTROL: f"private, max-age={_KEEP_SECONDS}", **_HEADERS}
        return web.Response(body=kept.body, content_type=kept.media_type, headers=headers)

    async def workflow(self, request: web.Request) -> web.Response:
        """The workflow whose execution the run was, as ComfyUI's page loads it."""
        kept, report = await self._kept(request, "workflow"), await self._report(request)
        try:
            body = await asyncio.to_thread(_unzipped, kept.body)
        except (zlib.error, ValueError):
            text = "The workflow that is kept with the run is broken."
            raise security.refusal(web.HTTPNotFound, "workflow", text) from None
        name = file_name(f"{report.name or report.pipeline}-{short_id(report.run_id)}.json")
        headers = {hdrs.CONTENT_DISPOSITION: f'attachment; filename="{name}"', **_HEADERS}
        return web.Response(body=body, content_type="application/json", headers=headers)

    async def _report(self, request: web.Request) -> RunReport:
        report = await asyncio.to_thread(self._runs.report, request.match_info["run_id"])
        if report is None:
            raise security.refusal(web.HTTPNotFound, "run_id", "run_id is none of the runs remembered")
        return report

    async def _file(self, report: RunReport) -> OutputFile:
        return await asyncio.to_thread(output_file, report, was_made_here=self._runs.was_made_here)

    async def _kept(self, request: web.Request, kind: str) -> Kept:
        kept = await asyncio.to_thread(self._runs.attachment, request.match_info["run_id"], kind)
        if kept is None:
            raise security.refusal(web.HTTPNotFound, kind, f"No {kind} is kept with the run.")
        return kept


def file_name(name: str) -> str:
    """The name of a file to be downloaded, safe in a header."""
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII)


def _unzipped(body: bytes) -> bytes:
    """Raises zlib.error or ValueError for what is broken, or larger than anything that we keep."""
    unzip = zlib.decompressobj(wbits=31)
    text = unzip.decompress(body, _MOST_WORKFLOW_BYTES)
    if not unzip.eof:
        raise ValueError("it does not end")
    return text
