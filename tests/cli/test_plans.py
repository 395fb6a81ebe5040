"""Plans as commands keep them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from crystools_pipelines.planning import planner
from crystools_tpu.cli import plans


def test_that_plans_cannot_be_kept_is_said_once_and_stops_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def keep_plan(*_: object) -> None:
        raise OSError(30, "Read-only file system", "/cache/plans")

    made: Any = SimpleNamespace(largest_that_fits=())
    monkeypatch.setattr(plans, "keep_plan", keep_plan)
    monkeypatch.setattr(plans, "plan_key", lambda spec, only: "key")
    monkeypatch.setattr(planner, "Planner", lambda *_: SimpleNamespace(plan=lambda search: made))
    several = plans.Plans(None, anew=True)
    several.__dict__["_compiler"] = None
    spec: Any = None
    assert [several.plan(spec) for _ in range(3)] == [made] * 3
    said = "crystools-tpu: the plan is not kept: [Errno 30] Read-only file system: '/cache/plans'\n"
    assert capsys.readouterr().err == said
