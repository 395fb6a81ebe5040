"""The aiohttp application: the page, the JSON API, the metrics and the websocket."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from crystools_tpu import __version__
from crystools_tpu.monitor import Monitor, Snapshot
from crystools_tpu.server import security, wire
from crystools_tpu.server.results import Results, file_name
from crystools_tpu.server.runs import AlikeRuns, KeptRuns, Runs
from crystools_tpu.server.settings import (
    FieldError,
    Settings,
    parse_object,
    requested_prompt,
    requested_steps,
    run_filter,
    updated_settings,
)
from crystools_tpu.server.static import WEB_ROOT, file_handler
from crystools_tpu.server.websocket import Hub
from crystools_tpu.telemetry import (
    Bus,
    CaptureBusyError,
    History,
    Profiler,
    RunReport,
    to_wire,
    with_progress,
)
from crystools_tpu.telemetry.events import Message
from crystools_tpu.telemetry.labels import short_id

PREFIX: Final = "/crystools-tpu"
MOST_RUNS: Final = 100
MOST_WORKFLOW_BYTES: Final = 8 * 1024**2
TOKEN: Final[web.AppKey[str | None]] = web.AppKey("token")

MetricsText: TypeAlias = Callable[[str], tuple[bytes, str]]
Trace: TypeAlias = Callable[[RunReport], bytes]
Expect: TypeAlias = Callable[[Mapping[str, Any]], wire.Expected]


@dataclass(frozen=True)
class Profiling:
    """The profiler of the pipelines in this process, the folder where its captures go, and their API."""

    profiler: Profiler
    folder: Path

    async def get(self, request: web.Request) -> web.Response:
        """How the capture that was asked for last stands."""
        return _json(self.profiler.capture)

    async def post(self, request: web.Request) -> web.Response:
        """Asks for a capture of the next steps; it is made with the next steps of a run."""
        steps = requested_steps(parse_object(await security.bounded_body(request)))
        try:
            return _json(self.profiler.request_capture(self.folder, steps), status=202)
        except ValueError as error:
            raise FieldError("steps", str(error)) from None
        except CaptureBusyError as error:
            raise security.refusal(web.HTTPConflict, "steps", str(error)) from None
        except OSError as error:
            text = f"{self.folder} cannot be made: {error.strerror}"
            raise security.refusal(web.HTTPInternalServerError, "folder", text) from None


@dataclass(frozen=True, kw_only=True)
class Served:
    """What a server tells of: a machine, its runs, and what can be made of them.

    `kept` are the runs of other processes, which clients are told of too. `simulated` names the simulated
    machine and goes to every client. `metrics_text` takes the request's `Accept` and renders the metrics and
    their content type; it may block. `trace` makes a trace file of a run; it may take its time, and raises
    ImportError, with what helps, where its package is broken. `profiling` lets clients ask for captures.
    `price_per_chip_hour` is the setting as it begins. `expect` tells what to expect of a workflow before it
    begins; it may block, and raises FieldError for what is none.
    """

    monitor: Monitor
    history: History
    bus: Bus
    kept: KeptRuns | None = None
    simulated: str | None = None
    metrics_text: MetricsText | None = None
    trace: Trace | None = None
    profiling: Profiling | None = None
    price_per_chip_hour: float | None = None
    expect: Expect | None = None


def create_app(
    served: Served,
    *,
    token: str | None = None,
    prefix: str = PREFIX,
    web_root: Path = WEB_ROOT,
    clock: Callable[[], float] = time.monotonic,
) -> web.Application:
    """The application for `Server`, with everything under `prefix`. Raises ValueError for an empty token."""
    if token == "":
        raise ValueError("token is empty: give a secret, or None to serve the loopback interface alone")
    api = Api(served, clock)
    page = file_handler(web_root)
    to_page = _redirect_handler(f"{prefix}/"[1:])
    routes = [
        web.get("/", to_page),
        web.get(prefix, _redirect_to_folder),
        *_routes(api, page, prefix),
        *_metrics_routes(served, "/metrics"),
    ]
    guard = security.guard(
        token, loopback_only=token is None, page_key=api.page_key, public={page, _redirect_to_folder, to_page}
    )
    app = _application(api, routes, guard)
    app[TOKEN] = token
    return app


def mount(
    outer: web.Application, prefixes: Iterable[str], served: Served, *, allowed_origin: str | None = None
) -> None:
    """Answers in another application too, at each of the prefixes, with the same clients and settings.

    `outer` decides who may connect; a page of another site is refused all the same, unless it is of
    `allowed_origin` (`*` for any).
    """
    api = Api(served, time.monotonic)
    page = file_handler(WEB_ROOT)
    guard = security.guard(None, loopback_only=False, page_key=api.page_key, allowed_origin=allowed_origin)
    for prefix in prefixes:
        routes = [web.get("", _redirect_to_folder), *_routes(api, page, "")]
        outer.add_subapp(prefix, _application(api, routes, guard))


def _routes(api: Api, page: Handler, prefix: str) -> list[web.RouteDef]:
    routes = [
        web.get(f"{prefix}/api/health", api.health),
        web.get(f"{prefix}/api/key", api.key),
        web.get(f"{prefix}/api/devices", api.devices),
        web.get(f"{prefix}/api/settings", api.get_settings),
        web.put(f"{prefix}/api/settings", api.put_settings),
        web.get(f"{prefix}/api/runs", api.runs),
        web.get(f"{prefix}/api/runs/{{run_id}}", api.run),
        web.get(f"{prefix}/api/runs/{{run_id}}/explanation", api.explanation),
        web.get(f"{prefix}/api/runs/{{run_id}}/trace", api.trace),
        web.get(f"{prefix}/api/runs/{{run_id}}/result", api.results.result),
        web.get(f"{prefix}/api/runs/{{run_id}}/output", api.results.output),
        web.get(f"{prefix}/api/runs/{{run_id}}/thumbnail", api.results.thumbnail),
        web.get(f"{prefix}/api/runs/{{run_id}}/workflow", api.results.workflow),
        web.get(f"{prefix}/api/compare", api.compare),
        web.get(f"{prefix}/ws", api.hub.handle),
    ]
    if (profiling := api.served.profiling) is not None:
        routes.append(web.get(f"{prefix}/api/profile", profiling.get))
        routes.append(web.post(f"{prefix}/api/profile", profiling.post))
    if api.served.expect is not None:
        routes.append(web.post(f"{prefix}/api/expected", api.expected))
    routes += _metrics_routes(api.served, f"{prefix}/metrics")
    return [*routes, web.get(f"{prefix}/", page), web.get(f"{prefix}/{{name:.+}}", page)]


def _application(api: Api, routes: Iterable[web.RouteDef], guard: Middleware) -> web.Application:
    app = web.Application(middlewares=[guard, _answer_field_errors])
    app.add_routes(routes)
    app.on_response_prepare.append(security.add_security_headers)
    app.on_shutdown.append(api.close)
    return app


class Api:
    """The handlers of the JSON API; each answer is an object with `schema` first."""

    def __init__(self, served: Served, clock: Callable[[], float]) -> None:
        self.served = served
        self._runs = Runs(served.history, served.kept)
        self._clock = clock
        self._started_at = clock()
        self._expecting = asyncio.Lock()
        self.page_key = secrets.token_urlsafe(16)
        self.results = Results(self._runs)
        self._alike = AlikeRuns(self._runs.alike)
        self.hub = Hub(
            served.monitor,
            served.bus,
            self._runs,
            self._hello,
            served.history.report,
            self._alike.of,
            served.price_per_chip_hour,
        )

    async def health(self, request: web.Request) -> web.Response:
        """How the server stands, and on which address it was reached."""
        assert request.transport is not None
        host, port = request.transport.get_extra_info("sockname")[:2]
        return _json(
            wire.Health(
                version=__version__,
                host=host.removeprefix("::ffff:"),  # IPv4 over a socket of both
                port=port,
                uptime_seconds=self._clock() - self._started_at,
                simulated=self.served.simulated,
                subscribers=self.hub.subscribers,
                samples_total=self.served.monitor.samples_total,
                sources=self.served.monitor.health(),
                attached=self.served.monitor.attached(),
            )
        )

    async def key(self, request: web.Request) -> web.Response:
        """What tells the server's own page from another site's where the headers do not."""
        answer = _json(wire.PageKey(self.page_key))
        answer.headers[hdrs.CACHE_CONTROL] = "no-store"
        return answer

    async def devices(self, request: web.Request) -> web.Response:
        """One snapshot, no older than the interval."""
        snapshot = await self._sample()
        return web.json_response(wire.snapshot_message(snapshot, self.hub.settings.disks), dumps=wire.dumps)

    async def get_settings(self, request: web.Request) -> web.Response:
        """The server's settings."""
        return _json(self.hub.settings)

    async def put_settings(self, request: web.Request) -> web.Response:
        """Validates all fields, then applies all of them."""
        body = parse_object(await security.bounded_body(request))
        host = (await self._sample()).host
        mounts = [disk.mount for disk in host.disks] if host is not None else []
        self.hub.settings = updated_settings(self.hub.settings, body, mounts)
        return await self.get_settings(request)

    async def runs(self, request: web.Request) -> web.Response:
        """A page of reports, newest first: `limit` of them, which began before run `before`.

        With a filter those alone that are meant.
        """
        limit, before = _limit(request.query.get("limit", str(wire.HELLO_RUNS))), request.query.get("before")
        if chosen := run_filter(request.query):
            reports, unreadable, to = await asyncio.to_thread(self._runs.search, chosen, limit + 1, before)
        else:
            (reports, unreadable), to = await asyncio.to_thread(self._runs.page, limit + 1, before), None
        page = tuple(map(Message, map(self._with_progress, reports[:limit])))
        more = len(reports) > limit
        searched_to = None if to is None or more else wire.SearchedTo(to.run_id, to.started_unix_seconds)
        return _json(wire.RunsPage(page, more or searched_to is not None, tuple(unreadable), searched_to))

    async def run(self, request: web.Request) -> web.Response:
        """The report of one run."""
        return _json(self._with_progress(await self._report("run_id", request.match_info["run_id"])))

    async def explanation(self, request: web.Request) -> web.Response:
        """How a run compares with its last five alike, and why."""
        report = await self._report("run_id", request.match_info["run_id"])
        return _json(await asyncio.to_thread(self._runs.explain, report))

    async def trace(self, request: web.Request) -> web.Response:
        """One run as a file for Perfetto's viewer."""
        report = await self._report("run_id", request.match_info["run_id"])
        if self.served.trace is None:
            text = "traces need a package: pip install 'crystools-tpu[perfetto]', and start the server anew"
            raise security.refusal(web.HTTPNotImplemented, "trace", text)
        try:
            body = await asyncio.to_thread(self.served.trace, report)
        except ImportError as error:
            raise security.refusal(web.HTTPNotImplemented, "trace", str(error)) from None
        name = file_name(f"{report.pipeline}-{short_id(report.run_id)}.pftrace")
        return web.Response(
            body=body,
            content_type="application/octet-stream",
            headers={hdrs.CONTENT_DISPOSITION: f'attachment; filename="{name}"'},
        )

    async def compare(self, request: web.Request) -> web.Response:
        """Run `b` compared with run `a`."""
        a = await self._report("a", request.query.get("a", ""))
        b = await self._report("b", request.query.get("b", ""))
        return _json(await asyncio.to_thread(self._runs.compare, a, b))

    async def expected(self, request: web.Request) -> web.Response:
        """What to expect of a workflow that has not begun; one at a time, however many tabs ask."""
        assert self.served.expect is not None
        body = parse_object(await security.bounded_body(request, MOST_WORKFLOW_BYTES))
        prompt = requested_prompt(body)
        async with self._expecting:
            return _json(await asyncio.to_thread(self.served.expect, prompt))

    async def close(self, app: web.Application) -> None:
        """Ends all websocket connections."""
        await self.hub.close()
        self._alike.close()

    async def _sample(self) -> Snapshot:
        """A sample may wait for slow sources: never on the event loop."""
        return await asyncio.to_thread(self.served.monitor.sample, self.hub.settings.interval_seconds)

    async def _report(self, field: str, run_id: str) -> RunReport:
        report = await asyncio.to_thread(self._runs.report, run_id)
        if report is None:
            raise security.refusal(web.HTTPNotFound, field, f"{field} is none of the runs remembered")
        return report

    def _with_progress(self, report: RunReport) -> RunReport:
        return with_progress(report, self.served.monitor.unix_seconds(), self._alike.of)

    def _hello(self, settings: Settings) -> wire.Hello:
        profiling, runs = self.served.profiling, self._runs.newest(wire.HELLO_RUNS)
        return wire.Hello(
            version=__version__,
            simulated=self.served.simulated,
            settings=settings,
            runs=tuple(map(Message, map(self._with_progress, runs))),
            traces=self.served.trace is not None,
            profile=profiling.profiler.capture if profiling is not None else None,
        )


def _json(message: Any, status: int = 200) -> web.Response:
    return web.json_response(to_wire(message), status=status, dumps=wire.dumps)


def _limit(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= MOST_RUNS:
        raise FieldError("limit", f"limit must be a number from 1 to {MOST_RUNS}")
    return int(text)


def _metrics_routes(served: Served, path: str) -> list[web.RouteDef]:
    if (metrics_text := served.metrics_text) is None:
        return []

    async def metrics(request: web.Request) -> web.Response:
        accept = ",".join(request.headers.getall(hdrs.ACCEPT, ()))
        text, content_type = await asyncio.to_thread(metrics_text, accept)
        return web.Response(body=text, headers={hdrs.CONTENT_TYPE: content_type, hdrs.VARY: hdrs.ACCEPT})

    return [web.get(path, metrics)]


def _redirect_handler(path: str) -> Handler:
    """`path` is relative, so that it is right behind a proxy that serves all this under a path of its own."""

    async def redirect(request: web.Request) -> web.StreamResponse:
        query = request.rel_url.raw_query_string
        raise web.HTTPFound(f"{path}?{query}" if query else path)

    return redirect


async def _redirect_to_folder(request: web.Request) -> web.StreamResponse:
    return await _redirect_handler(f"{request.path.rpartition('/')[2]}/")(request)


@web.middleware
async def _answer_field_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except FieldError as error:
        raise security.refusal(web.HTTPBadRequest, error.field, str(error)) from None
