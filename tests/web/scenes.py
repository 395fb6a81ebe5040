"""A machine and its runs under a clock that only the test moves: the real recorder, monitor and server.

Only what cannot be had is played: the chips (as `jax.Device` shows them), and the time that a step takes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from crystools_exporters.exporting import KeptRuns
from crystools_tpu import telemetry
from crystools_tpu.monitor import Monitor
from crystools_tpu.server import Profiling, Served, Server, create_app
from crystools_tpu.sources.base import ChipReading, DiskReading, HostReading, Reading, Source, SourceError
from crystools_tpu.telemetry import StageName

GIB = 2**30
EPOCH = 1_790_000_000.0


class Clock:
    """Seconds since the scene's start, moved by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def wall(self) -> float:
        return EPOCH + self.seconds


class V6eChip:
    """One v6e chip as jax shows it."""

    platform = "tpu"
    device_kind = "TPU v6 lite"

    def __init__(self, number: int) -> None:
        self.id = number
        self.used = int(1.5 * GIB)
        self.peak = self.used

    def hold(self, gibibytes: float) -> None:
        self.used = int(gibibytes * GIB) + self.id * 3 * 2**20
        self.peak = max(self.peak, self.used)

    def memory_stats(self) -> dict[str, int]:
        return {
            "bytes_in_use": self.used,
            "peak_bytes_in_use": self.peak,
            "bytes_limit": int(31.24 * GIB),
        }


class Output:
    """What a step hands to `stage.step`: computed `seconds` after the step before it.

    The clock moves when the recorder's thread waits for it; the host's own wait moves nothing.
    """

    dtype = "bool"
    size = 1

    def __init__(self, clock: Clock, seconds: float, finite: bool) -> None:
        self._clock = clock
        self._seconds = seconds
        self._finite = finite
        self.recorded = threading.Event()

    def block_until_ready(self) -> None:
        if not self.recorded.is_set():
            self._clock.seconds += self._seconds

    def __bool__(self) -> bool:
        self.recorded.set()  # the recorder asks for the value after it has read the clock
        return self._finite


@dataclass
class Machine:
    """A source that says what it is told to; `down` makes it fail with that reason."""

    name: str = "tpu"
    reading: Reading = field(default_factory=Reading)
    down: str | None = None

    def read(self) -> Reading:
        if self.down:
            raise SourceError(self.down)
        return self.reading

    def close(self) -> None:
        pass


HOST = HostReading(
    cpu_utilization_ratio=0.37,
    memory_used_bytes=412 * GIB,
    memory_total_bytes=1433 * GIB,
    disks=(DiskReading("/", 71 * GIB, 97 * GIB), DiskReading("/dev/shm", 133 * GIB, 708 * GIB)),
)


def v6e_readings(count: int, *, used_gib: float = 23.5, duty: float = 0.98) -> tuple[ChipReading, ...]:
    """Readings of `count` v6e chips, each a little different."""
    return tuple(
        ChipReading(
            chip=f"tpu{number}",
            kind="v6e",
            hbm_used_bytes=int((used_gib + 0.35 * ((number * 7) % 11) - 1.5) * GIB),
            hbm_total_bytes=int(31.25 * GIB),
            duty_cycle_ratio=max(0.0, duty - 0.004 * ((number * 5) % 9)),
            tensorcore_utilization_ratio=0.61 - 0.01 * ((number * 3) % 7),
        )
        for number in range(count)
    )


class Scene:
    """A server on a free port, with a history and a bus of its own; `sources` replace its played machine."""

    def __init__(
        self,
        sources: Sequence[Source] | None = None,
        *,
        simulated: str | None = None,
        prefix: str = "/crystools-tpu",
        token: str | None = None,
    ) -> None:
        self.clock = Clock()
        self.bus = telemetry.Bus()
        self.history = telemetry.History()
        self.kept: KeptRuns | None = None
        self.profiler = telemetry.Profiler(self.bus)
        self.profiles: Path | None = None
        self.trace: Callable[[telemetry.RunReport], bytes] | None = None
        self.host = Machine("host", Reading(host=HOST))
        self.tpu = Machine("tpu")
        self._sources = [self.host, self.tpu] if sources is None else sources
        self._simulated = simulated
        self._prefix = prefix
        self._token = token
        self._server: Server | None = None
        self._monitor: Monitor | None = None
        self._port = 0
        self._began = time.monotonic()

    @property
    def url(self) -> str:
        query = f"?token={self._token}" if self._token else ""
        return f"http://127.0.0.1:{self._port}{self._prefix}/{query}"

    def start(self) -> None:
        """Serves, on the port it had before if it ran before."""
        self._monitor = Monitor(
            self._sources,
            interval_seconds=0.1,
            simulated=self._simulated is not None,
            clock=self._machine_time,
        )
        self._monitor.start()
        self._server = Server(self.application(self._monitor), port=self._port)
        _, self._port = self._server.start()

    def application(self, monitor: Monitor) -> web.Application:
        """What is served."""
        return create_app(self.served(monitor), prefix=self._prefix, token=self._token)

    def served(self, monitor: Monitor) -> Served:
        """What the server tells of and can do, as the test has set it."""
        return Served(
            monitor=monitor,
            history=self.history,
            bus=self.bus,
            kept=self.kept,
            simulated=self._simulated,
            trace=self.trace,
            profiling=None if self.profiles is None else Profiling(self.profiler, self.profiles),
        )

    def stop_sampling(self) -> None:
        """The server goes on, but no reading comes any more."""
        assert self._monitor is not None
        self._monitor.stop()

    def stop(self) -> None:
        """Ends the server and its sampling; harmless where there is none."""
        if self._server and self._monitor:
            self._server.stop()
            self._monitor.stop()
            self._server = self._monitor = None

    def _machine_time(self) -> float:
        """The scene's time, which also goes by itself: the server paces snapshots by it."""
        return self.clock.wall() + time.monotonic() - self._began

    @contextmanager
    def run(self, pipeline: str = "wan2.1-t2v", **options: Any) -> Iterator[telemetry.Run]:
        with telemetry.run(
            pipeline,
            bus=self.bus,
            history=self.history,
            profiler=self.profiler,
            clock=self.clock.monotonic,
            wall_clock=self.clock.wall,
            **options,
        ) as run:
            yield run

    def step(
        self, stage: telemetry.Stage, seconds: float, *, finite: bool = True, kind: str = "full"
    ) -> None:
        """A step of `seconds`, done when this returns, so that the host never touches the clock meanwhile."""
        output = Output(self.clock, seconds, finite)
        stage.step(output, kind=kind)
        if not output.recorded.wait(10):
            raise TimeoutError("the step was not recorded")

    def compile(self, stage: telemetry.Stage, seconds: float, reason: str | None = None) -> None:
        """A compile of `seconds` falls into the stage, as jax.monitoring would report it."""
        self.clock.seconds += seconds
        if reason:
            stage.compile_log.explain(reason)
        stage.compile_log.hit()
        stage.compile_log.duration("/jax/core/compile/backend_compile_duration", seconds, "jit(denoise)")


PARAMS = {
    "prompt": "A cat in a space suit walks through a neon market in the rain, shallow depth of field",
    "height": 720,
    "width": 1280,
    "num_frames": 81,
    "num_inference_steps": 50,
    "guidance_scale": 5.0,
    "flow_shift": 5.0,
    "seed": 2025,
}


FORECAST = telemetry.Forecast(
    "a played estimate",
    int(31.24 * GIB),
    (
        telemetry.StageForecast(StageName.DENOISE, None, True, 4.5, 22 * GIB),
        telemetry.StageForecast(StageName.VAE_DECODE, None, False, None, 40 * GIB),
    ),
    ("720 x 1280, 49 frames", "544 x 960, 81 frames"),
)
"""Of a run of `play_wan`, which it says will not fit."""


def play_wan(
    scene: Scene,
    *,
    chips: int = 8,
    steps: int = 50,
    stop_after: int | None = None,
    nan_at: int | None = None,
    recompile_at: int | None = None,
    fail_at: int | None = None,
    forecast: telemetry.Forecast | None = None,
) -> Generator[None, None, None]:
    """One Wan2.1 run at 720p. Yields once in the middle where `stop_after` steps are done."""
    devices = [V6eChip(number) for number in range(chips)]
    model_id = "Wan-AI/Wan2.1-T2V-14B-Diffusers"
    with scene.run(model_id=model_id, params=PARAMS, devices=devices, forecast=forecast) as run:
        for component, seconds, gib in (("text_encoder", 9.4, 12.2), ("transformer", 21.8, 5.3)):
            with run.stage("load", component=component):
                scene.clock.seconds += seconds
                _hold(devices, gib)
        with run.stage("text_encode") as stage:
            scene.compile(stage, 6.1)
            scene.clock.seconds += 1.2
        with run.stage(
            "denoise",
            steps=steps,
            flops_per_step=13.05e15 * chips / 8,
            flops_method="architecture",
            bytes_per_step=5.6e11 * chips,
        ) as stage:
            for step in range(steps):
                if step == 0:
                    scene.compile(stage, 38.0)
                    _hold(devices, 24.1)
                if step == recompile_at:
                    scene.compile(
                        stage, 12.0, "at latents, now f32[1,16,21,90,160] and before bf16[1,16,21,90,160]"
                    )
                if step == fail_at:
                    raise RuntimeError(
                        "RESOURCE_EXHAUSTED: attempting to allocate 9.42G, 7.10G available (tpu3)"
                    )
                scene.step(stage, 4.6, finite=nan_at is None or step < nan_at)
                if stop_after == step + 1:
                    yield
        with run.stage("vae_decode") as stage:
            scene.compile(stage, 8.0)
            _hold(devices, 27.3)
            scene.clock.seconds += 1.16
        with run.stage("save"):
            scene.clock.seconds += 3.1
        run.output = "out/cat.mp4"


@contextmanager
def played_until(scene: Scene, step: int, **options: Any) -> Iterator[Iterator[None]]:
    """A run whose device has done `step` steps; iterating goes on to its end, leaving cancels it."""
    playing = play_wan(scene, stop_after=step, **options)
    next(playing)
    try:
        yield playing
    finally:
        playing.close()


def play_to_end(scene: Scene, **options: Any) -> None:
    """A whole run, or to the error that `fail_at` makes."""
    with suppress(RuntimeError):
        for _ in play_wan(scene, **options):
            pass


def _hold(devices: list[V6eChip], gibibytes: float) -> None:
    for device in devices:
        device.hold(gibibytes)
