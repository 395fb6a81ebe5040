"""The simulated host: which there are, what they show, and that nothing stays behind."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from crystools_pipelines.planning.topologies import TOPOLOGIES as PLANNED
from crystools_tpu.monitor import Monitor
from crystools_tpu.simulation.figures import plausible_figures
from crystools_tpu.simulation.machine import Simulation
from crystools_tpu.simulation.topology import parse_topology
from crystools_tpu.sources.tpu_discovery import find_chips


@pytest.mark.parametrize(
    "topology", ["v2-8", "v3-8", "v4-8", "v5e-1", "v5e-16", "v5p-8", "v6e-8", "v6e-256", "7x-2"]
)
def test_every_kind_of_topology_shows_its_chips_whole(topology: str) -> None:
    with Simulation(topology) as simulation:
        tpu = next(source for source in simulation.sources() if source.name == "tpu")
        reading = tpu.read()
        tpu.close()
        assert [chip.chip for chip in reading.chips] == [f"tpu{n}" for n in range(simulation.topology.chips)]
        for chip, figures in zip(reading.chips, simulation.figures(), strict=True):
            assert chip.hbm_used_bytes == figures.hbm_used_bytes
            assert chip.hbm_total_bytes == simulation.topology.spec.hbm_bytes
            assert chip.duty_cycle_ratio == pytest.approx(figures.duty_cycle_percent / 100)
            assert chip.hbm_bandwidth_utilization_ratio == pytest.approx(figures.hbm_bandwidth_percent / 100)


@pytest.mark.parametrize("topology", ["v6e-7", "v6e", "v9-8", "", "V6E-8", "v6e-8 "])
def test_an_unknown_topology_is_refused_with_a_list_of_those_there_are(topology: str) -> None:
    with pytest.raises(ValueError, match="topology must be") as error:
        Simulation(topology)
    assert str(error.value) == (
        "topology must be one of v2-8 to v2-512, v3-8 to v3-512, v4-8 to v4-512, v5e-1, v5e-4 to v5e-256, "
        "v5p-8 to v5p-512, v6e-1, v6e-4 to v6e-256, 7x-2, 7x-8 to 7x-512, each twice the one before, "
        f"got {topology!r}"
    )


def test_whatever_can_be_planned_for_can_be_simulated_with_as_many_chips() -> None:
    planned = {name: (topology.chip_name, topology.chips) for name, topology in PLANNED.items()}
    shown = {name: parse_topology(name) for name in planned}
    assert {name: (each.chip.value.name, each.chips) for name, each in shown.items()} == planned


def test_the_names_count_cores_or_chips_as_google_clouds_do() -> None:
    counts = {
        name: parse_topology(name).chips for name in ("v2-8", "v4-8", "v5e-8", "v5p-8", "v6e-8", "7x-8")
    }
    assert counts == {"v2-8": 4, "v4-8": 4, "v5e-8": 8, "v5p-8": 4, "v6e-8": 8, "7x-8": 4}


def test_moving_figures_depend_on_the_clock_alone_and_stay_plausible() -> None:
    now = 50.0
    with Simulation("v6e-8", moving=True, clock=lambda: now) as simulation:
        start = simulation.figures()
        assert simulation.figures() == start
        now = 55.0
        later = simulation.figures()
        assert later != start
        for second in range(40):
            now = 50.0 + second
            for chip in simulation.figures():
                assert 0 < chip.hbm_used_bytes < chip.hbm_total_bytes
                assert 0 < chip.tensorcore_percent <= chip.duty_cycle_percent <= 100
                assert 0 < chip.hbm_bandwidth_percent <= 100
        now = 55.0
        assert simulation.figures() == later


def test_the_figures_of_many_chips_stay_plausible() -> None:
    for second in range(20):
        for chip in plausible_figures(parse_topology("v6e-256"), second):
            assert 0 < chip.hbm_used_bytes < chip.hbm_total_bytes
            assert 0 < chip.tensorcore_percent <= chip.duty_cycle_percent <= 100
            assert 0 < chip.hbm_bandwidth_percent <= 100


def test_without_moving_the_figures_stay() -> None:
    now = 50.0
    with Simulation("v6e-8", clock=lambda: now) as simulation:
        start = simulation.figures()
        now = 5000.0
        assert simulation.figures() == start


def test_every_sample_is_marked_as_simulated() -> None:
    with Simulation("v5e-4") as simulation:
        monitor = Monitor(simulation.sources(), simulated=True)
        assert monitor.sample(0).simulated
        monitor.stop()


def test_closing_removes_the_tree_and_frees_the_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    simulation = Simulation("v6e-8")
    assert len(find_chips(simulation.sysfs)) == 8
    assert list(tmp_path.iterdir()) != []
    simulation.close()
    simulation.close()
    assert list(tmp_path.iterdir()) == []
    simulation.runtime.start()  # the port is free again
    simulation.runtime.close()


def test_a_process_that_simulated_leaves_no_child_behind(tmp_path: Path) -> None:
    program = """
        import psutil, time
        from crystools_tpu.monitor import Monitor
        from crystools_tpu.simulation.machine import Simulation
        with Simulation("v6e-8") as simulation:
            monitor = Monitor(simulation.sources(), simulated=True)
            while not monitor.health()[2].up:
                monitor.sample(0)
                time.sleep(0.1)
            (child,) = psutil.Process().children()
            monitor.stop()
        print(child.pid)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)},
    )
    assert result.returncode == 0, result.stderr
    assert not Path(f"/proc/{int(result.stdout)}").exists()
    assert list(tmp_path.iterdir()) == []
