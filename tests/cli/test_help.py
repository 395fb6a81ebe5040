"""`--help` of every command: it fits the terminal, and its examples work."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator

import pytest

from crystools_pipelines.planning.topologies import TOPOLOGIES
from crystools_tpu.cli.main import build_parser
from crystools_tpu.cli.requests import request_of
from crystools_tpu.cli.runs import parse_percent


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser and those of its commands and of their actions."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from parsers(command)


PARSER = build_parser()
PARSERS = {parser.prog: parser for parser in parsers(PARSER)}


def examples(parser: argparse.ArgumentParser) -> list[str]:
    return [
        line.strip() for line in (parser.epilog or "").splitlines() if line.startswith("  crystools-tpu ")
    ]


EXAMPLES = [example for parser in PARSERS.values() for example in examples(parser)]


@pytest.mark.parametrize("prog", PARSERS)
def test_every_command_has_examples_of_itself(prog: str) -> None:
    shown = examples(PARSERS[prog])
    assert shown
    assert all(example.startswith(prog) for example in shown)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_a_command_that_can_be_run(example: str) -> None:
    program, *words = shlex.split(example)
    assert program == "crystools-tpu"
    arguments = PARSER.parse_args(words)
    assert callable(arguments.run)
    if arguments.command in ("generate", "plan"):
        request_of(arguments, of_any_content=arguments.command == "plan")
    if arguments.command == "plan":
        assert arguments.topology in TOPOLOGIES
    if getattr(arguments, "fail_on", None):
        parse_percent(arguments.fail_on)


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("prog", PARSERS)
def test_the_help_is_no_wider_than_the_terminal(
    prog: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = PARSERS[prog].format_help()
    assert max(map(len, shown.splitlines())) <= columns
    assert shlex.split(shown.partition("examples:")[2].replace("\\\n", ""), comments=True) == shlex.split(
        " ".join(examples(PARSERS[prog]))
    ), "copied with its line breaks, an example is the same"
