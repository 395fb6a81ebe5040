"""Makes the pictures of docs/grafana.md: what a real Prometheus answers to the dashboards' queries, drawn.

    PYTHONPATH=.:grafana python docs/make_dashboard_pictures.py

Real runs of tiny models on this machine beside simulated chips, and a slice of four simulated hosts that
repeat those runs, of which one degrades: slow, then idle and a chip short, then with a runtime that hangs.
Needs Prometheus and the extras `comfyui` and `dev`; takes about six minutes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib.pyplot as plt
from draw_dashboard import draw
from make_screenshots import save

from crystools_grafana.queries import EVERYTHING, PanelQuery, with_values
from crystools_pipelines.flux2.request import Flux2Request
from crystools_pipelines.runtime import residency
from crystools_pipelines.tiny import write_tiny_checkpoint
from crystools_pipelines.wan.wan21_t2v.request import Wan21Request
from crystools_tpu import telemetry
from crystools_tpu.cli.serve import panel
from crystools_tpu.telemetry import (
    Event,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
    Status,
    StepFinished,
)
from tests.grafana.fleet import (
    GRAFANA,
    Host,
    Recorder,
    lose_a_chip_and_idle,
    simulated_host,
    write_configuration,
)
from tests.rigs.prometheus import RunningPrometheus, Series, running_prometheus

SECONDS: Final = 280
SLOW_AT, IDLE_AT, HANGS_AT = 90, 150, 220
RATE_SECONDS: Final = 20
STEP_SECONDS: Final = 0.6
TOPOLOGY: Final = "v6e-8"
CHIPS: Final = 8
TRAINERS: Final = 4
FAILS_EACH: Final = 4
IMAGE: Final = Flux2Request("a paper boat", height=256, width=256, num_inference_steps=8)
VIDEO: Final = Wan21Request("a paper boat", height=128, width=224, num_frames=17, num_inference_steps=8)


def main() -> None:
    """Runs the fleet for some minutes, then asks and draws."""
    os.environ["CRYSTOOLS_TPU_HISTORY"] = "off"
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        shown = stack.enter_context(panel(simulate=TOPOLOGY))
        trainers = [
            stack.enter_context(simulated_host(f"127.0.0.{number + 1}", TOPOLOGY))
            for number in range(1, TRAINERS + 1)
        ]
        for number, host in enumerate(trainers, start=1):
            host.name = f"trainer-{number}"
        slices = {"v6e-32-a": trainers}
        config = write_configuration(folder, alone=f"127.0.0.1:{shown.port}", slices=slices, interval="1s")
        prometheus = stack.enter_context(running_prometheus(config, folder / "data"))
        prometheus.wait_for(f"sum(up) == {TRAINERS + 1}", seconds=60)
        started = time.time()
        live(folder, trainers)
        pictures(prometheus, started, time.time())


def live(folder: Path, trainers: Sequence[Host]) -> None:
    """Real runs here, which the others repeat, until the time is up."""
    stop = threading.Event()
    image = write_tiny_checkpoint("flux.2", folder / "flux2")
    video = write_tiny_checkpoint("wan2.1-t2v", folder / "wan21")
    recorder = Recorder()

    def generate() -> None:
        generate(IMAGE, checkpoint=image, devices=1, out=folder / "boat.png")
        generate(VIDEO, checkpoint=video, devices=1, fps=16, out=folder / "boat.mp4")

    with recorder.recording(telemetry.bus):
        generate()
    players = [Player(host, recorder.events, stop) for host in trainers]
    threads = [threading.Thread(target=player.play) for player in players]
    threads.append(threading.Thread(target=degrade, args=(players[2],)))
    for thread in threads:
        thread.start()
    ends = time.monotonic() + SECONDS
    try:
        while time.monotonic() < ends:
            generate()
            residency.free_all()
            stop.wait(8)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def degrade(player: Player) -> None:
    """Slow, then idle and a chip short, then without a runtime."""
    simulation = player.host.simulation
    assert simulation is not None
    if player.stop.wait(SLOW_AT):
        return
    player.step_seconds *= 1.8
    if player.stop.wait(IDLE_AT - SLOW_AT):
        return
    lose_a_chip_and_idle(simulation)
    if not player.stop.wait(HANGS_AT - IDLE_AT):
        simulation.runtime.hang()


@dataclasses.dataclass
class Player:
    """Repeats recorded runs on a host, at the speed of its steps; each few fails."""

    host: Host
    events: Sequence[Event]
    stop: threading.Event
    step_seconds: float = STEP_SECONDS
    began: dict[int, float] = dataclasses.field(default_factory=dict)
    runs: int = 0

    def play(self) -> None:
        """Until it is told to stop."""
        while not self.stop.is_set():
            for event in self.events:
                self.host.bus.publish(self._retimed(event))
            self.stop.wait(3)

    def _retimed(self, event: Event) -> Event:
        """The event as it is at this host's speed, and with this host's chips."""
        match event:
            case RunStarted():
                self.began[-1] = time.monotonic()
            case StageStarted(stage=stage):
                self.began[stage] = time.monotonic()
            case StepFinished(record=record, mfu=mfu):
                seconds = self.step_seconds
                self.stop.wait(seconds)
                slower = record.seconds / seconds
                return dataclasses.replace(
                    event,
                    record=dataclasses.replace(record, seconds=seconds),
                    mfu=mfu and dataclasses.replace(mfu, ratio=mfu.ratio * slower),
                )
            case StageFinished(stage=stage, report=report):
                seconds = time.monotonic() - self.began[stage]
                mfu = report.mfu
                if mfu is not None and report.seconds is not None:
                    mfu = dataclasses.replace(mfu, ratio=mfu.ratio * report.seconds / seconds)
                return dataclasses.replace(
                    event, report=dataclasses.replace(report, seconds=seconds, mfu=mfu)
                )
            case RunFinished(report=report):
                self.runs += 1
                failed = self.runs % FAILS_EACH == 0
                device = report.device and dataclasses.replace(report.device, chips=CHIPS)
                return RunFinished(
                    dataclasses.replace(
                        report,
                        status=Status.FAILED if failed else Status.SUCCEEDED,
                        total_seconds=time.monotonic() - self.began[-1],
                        device=device,
                    )
                )
        return event


def pictures(prometheus: RunningPrometheus, start: float, end: float) -> None:
    """One of each dashboard."""
    for path in sorted((GRAFANA / "dashboards").glob("*.json")):
        dashboard: dict[str, Any] = json.loads(path.read_text())
        values = dict(EVERYTHING, price="1")
        if path.stem.endswith("chips"):
            values["host"] = "trainer-3"

        def ask(query: PanelQuery, values: dict[str, str] = values) -> list[Series]:
            expr = with_values(
                query.expr, values, rate_interval_seconds=RATE_SECONDS, range_seconds=int(end - start)
            )
            return prometheus.query(expr) if query.instant else prometheus.query_range(expr, start, end, 1)

        figure = draw(dashboard, ask, start=start, end=end)
        with io.BytesIO() as png:
            figure.savefig(png, format="png")
            save(png.getvalue(), f"grafana-{path.stem.removeprefix('crystools-tpu-')}")
        plt.close(figure)


if __name__ == "__main__":
    main()
