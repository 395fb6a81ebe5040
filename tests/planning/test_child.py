"""A child process that does what it is asked, and is gone at the end."""

from __future__ import annotations

import os
from typing import Any

import pytest

from crystools_pipelines.planning.compiler_process import ChildProcess, ProcessDiedError


def environment(name: str) -> tuple[str | None, int]:
    return os.environ.get(name), os.getpid()


def fail() -> Any:
    raise KeyError("wanted")


def die() -> Any:
    os.write(2, b"no memory left")
    os._exit(3)


def test_a_child_answers_raises_and_is_gone_at_the_end() -> None:
    with ChildProcess({"CRYSTOOLS_TPU_TEST": "1"}) as child:
        value, pid = child.call(environment, "CRYSTOOLS_TPU_TEST")
        assert value == "1"
        with pytest.raises(KeyError, match="wanted"):
            child.call(fail)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_child_that_dies_is_said_with_its_last_words() -> None:
    with ChildProcess({}) as child, pytest.raises(ProcessDiedError, match=r"ended with 3.*no memory left"):
        child.call(die)
