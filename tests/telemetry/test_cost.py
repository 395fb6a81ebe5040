"""What a run costs by a price that its user gives; the dashboard of Grafana counts alike."""

from __future__ import annotations

import dataclasses

import pytest

from crystools_exporters.catalogue import _chip_seconds
from crystools_tpu.environment import price_in
from crystools_tpu.telemetry import Device, RunFinished
from crystools_tpu.telemetry.cost import amount, cost_text, run_cost

from .test_time_to_go import DEMO, run

V6E_8 = Device("tpu", "TPU v6 lite", 8, 8.0, (), None, None, None, None)
RAN = dataclasses.replace(run(DEMO), device=V6E_8, total_seconds=184.5)


def test_the_cost_of_a_run_is_its_chips_times_its_hours_times_the_price() -> None:
    assert run_cost(RAN, 1.2) == pytest.approx(0.492)
    assert cost_text(RAN, 1.2) == "0.49: 8 chips for 184.5 s, at 1.20 a chip-hour"
    half = dataclasses.replace(V6E_8, kind="TPU v3", count=1, chips=0.5)
    assert cost_text(dataclasses.replace(RAN, device=half), 1) == (
        "0.026: 0.5 chips for 184.5 s, at 1.00 a chip-hour"
    )
    chip_seconds = _chip_seconds(RunFinished(RAN))
    assert chip_seconds is not None
    assert run_cost(RAN, 1.2) == chip_seconds / 3600 * 1.2


def test_it_is_not_known_without_a_price_while_it_runs_and_without_chips() -> None:
    assert run_cost(RAN, None) is None
    for unknown in (dataclasses.replace(RAN, device=None), dataclasses.replace(RAN, total_seconds=None)):
        assert run_cost(unknown, 1.2) is None
        assert cost_text(unknown, 1.2) is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0.00"),
        (1234.5, "1234.50"),
        (0.1, "0.10"),
        (0.094, "0.094"),
        (0.00312, "0.0031"),
        (1e-12, "0.00000000"),
    ],
)
def test_an_amount_has_two_figures_at_least(value: float, said: str) -> None:
    assert amount(value) == said


@pytest.mark.parametrize("text", ["-1", "0", "nan", "inf", "1,20", "1.20 EUR", "free"])
def test_what_is_no_price_is_refused(text: str) -> None:
    variable = "CRYSTOOLS_TPU_PRICE_PER_CHIP_HOUR"
    assert (price_in({variable: " 1.20 "}), price_in({variable: ""}), price_in({})) == (1.2, None, None)
    with pytest.raises(ValueError, match=r"is no price: give a number above 0, such as 1\.20"):
        price_in({variable: text})
