"""Captures of jax's profiler over the API: how the last one stands, and to ask for one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from crystools_tpu.server import security, wire
from crystools_tpu.server.settings import FieldError, parse_object, requested_steps
from crystools_tpu.telemetry import CaptureBusyError, ProfileCapture, Profiler
from crystools_tpu.telemetry.events import to_wire


@dataclass(frozen=True)
class Profiling:
    """The profiler of the pipelines in this process, and the folder where its captures go."""

    profiler: Profiler
    folder: Path

    async def get(self, request: web.Request) -> web.Response:
        """How the capture that was asked for last stands."""
        return _answer(self.profiler.capture, 200)

    async def post(self, request: web.Request) -> web.Response:
        """Asks for a capture of the next steps; it is made with the next steps of a run."""
        steps = requested_steps(parse_object(await security.bounded_body(request)))
        try:
            return _answer(self.profiler.request_capture(self.folder, steps), 202)
        except ValueError as error:
            raise FieldError("steps", str(error)) from None
        except CaptureBusyError as error:
            raise security.refusal(web.HTTPConflict, "steps", str(error)) from None
        except OSError as error:
            text = f"{self.folder} cannot be made: {error.strerror}"
            raise security.refusal(web.HTTPInternalServerError, "folder", text) from None


def _answer(capture: ProfileCapture, status: int) -> web.Response:
    return web.json_response(to_wire(capture), status=status, dumps=wire.dumps)
