"""A process's runs are kept by default, from its first on, by one keeper alone, which harms none of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from crystools_tpu.telemetry.keeping import Keeper


@dataclass
class Default:
    """Stands for what exports by default: what has happened to it."""

    happened: list[str] = field(default_factory=list)
    fault: Exception | None = None

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        self.happened.append("began")
        if self.fault is not None:
            raise self.fault
        yield
        self.happened.append("ended")


@pytest.fixture
def default() -> Default:
    return Default()


@pytest.fixture
def keeper(default: Default) -> Iterator[Keeper]:
    keeper = Keeper(default)
    yield keeper
    keeper.end()


def test_it_begins_with_the_first_run_and_ends_once(default: Default, keeper: Keeper) -> None:
    assert default.happened == []
    keeper.start()
    keeper.start()
    assert default.happened == ["began"]
    keeper.end()
    keeper.end()
    keeper.start()  # a run as late as that is not kept
    assert default.happened == ["began", "ended"]


def test_what_cannot_begin_is_one_warning_and_is_not_tried_again(
    default: Default, keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    default.fault = ModuleNotFoundError("No module named 'psutil'")
    keeper.start()
    keeper.start()
    assert default.happened == ["began"]
    assert caplog.messages == [
        "the runs of this process are not kept: ModuleNotFoundError: No module named 'psutil'"
    ]


def test_while_something_else_exports_it_does_not(default: Default, keeper: Keeper) -> None:
    with keeper.replaced(in_progress=tuple):
        keeper.start()
        with keeper.replaced(in_progress=lambda: ("a run",)):
            pass
        keeper.start()
    assert default.happened == []
    keeper.start()
    assert default.happened == ["began"]
    with keeper.replaced(in_progress=tuple):
        assert default.happened == ["began", "ended"]


def test_a_run_in_progress_when_the_other_ends_is_kept_on(default: Default, keeper: Keeper) -> None:
    with keeper.replaced(in_progress=lambda: ("a run",)):
        assert default.happened == []
    assert default.happened == ["began"]


def test_the_switch_counts_for_the_runs_that_begin_after_it(keeper: Keeper) -> None:
    keeper.run_begins("before")
    keeper.switch(False)
    keeper.run_begins("private")
    keeper.switch(True)
    keeper.run_begins("after")
    assert keeper.left_out == {"private"}
    keeper.run_ended("private")
    keeper.run_ended("after")
    assert keeper.left_out == set()


def test_a_fork_keeps_its_own_runs_and_leaves_those_of_the_parent_to_it(
    default: Default, keeper: Keeper
) -> None:
    keeper.start()
    keeper.begin_anew(of_the_parent=["theirs"])
    assert default.happened == ["began"], "what is the parent's goes on"
    keeper.start()
    keeper.end()
    assert default.happened == ["began", "began", "ended"]
    assert keeper.left_out == {"theirs"}
