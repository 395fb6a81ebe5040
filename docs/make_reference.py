"""Writes the tables of the documents from where the code declares what is in them: `make schemas`.

A table stands between `<!-- generated: WHAT NAMES... -->` and `<!-- end -->`. WHAT is one of

    options COMMAND      the options of a command, or of all its actions
    actions COMMAND      its actions
    variables [NAME...]  environment variables
    settings             the server's settings
    page-settings        those in ComfyUI's dialog, of the browser
    metrics              the catalogue
    presets              what presets set, and where that is published
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from crystools_exporters.catalogue import CATALOGUE
from crystools_pipelines.requests.presets import PRESETS
from crystools_tpu.cli import requests
from crystools_tpu.cli.main import build_parser
from crystools_tpu.environment import VARIABLES
from crystools_tpu.server.settings import Settings
from docs.make_schemas import fields_of

FOLDER: Final = Path(__file__).parent

_BLOCK: Final = re.compile(r"(<!-- generated: (.*?) -->\n).*?(<!-- end -->)", re.DOTALL)
_PAGE_SETTING: Final = re.compile(r'\bsetting\(\s*"\w+",\s*"([^"]+)",\s*(["`])(.*?)\2,\s')
_RANGE: Final = re.compile(r"(\w+): \{ min: ([\d.]+), max: ([\d.]+), step: ([\d.]+), initial: ([\d.]+) \}")
_SPAN: Final = re.compile(r'\$\{span\("(\w+)"\)\}')
_CODE: Final = re.compile(r"(?<![\w`-])--[a-z][\w-]*")


def commands() -> Mapping[str, argparse.ArgumentParser]:
    """The parser of each command."""
    return _actions(build_parser())


def _actions(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    found = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return next((action.choices for action in found), {})


def options(command: str) -> str:
    """One row an option; where the command has actions, which of them have it."""
    parser = commands()[command]
    if not _actions(parser):
        return _table(("option", "meaning"), _options(parser))
    rows: dict[tuple[str, str], list[str]] = {}
    for name, action in _actions(parser).items():
        for row in _options(action):
            rows.setdefault(row, []).append(f"`{name}`")
    return _table(
        ("option", "of", "meaning"),
        ((option, ", ".join(names), meaning) for (option, meaning), names in rows.items()),
    )


def _options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    formatter = parser._get_formatter()
    for action in parser._actions:
        if not action.option_strings or action.dest == "help":
            continue
        value = f" {action.metavar}" if action.metavar else ""
        meaning = _CODE.sub(r"`\g<0>`", formatter._expand_help(action) if action.help else "")
        yield f"`{action.option_strings[-1]}{value}`", meaning


def actions(command: str) -> str:
    """One row an action, with what it takes."""
    (known,) = (a for a in commands()[command]._actions if isinstance(a, argparse._SubParsersAction))
    texts = {choice.dest: choice.help or "" for choice in known._choices_actions}
    rows = []
    for name, parser in known.choices.items():
        takes = [
            f"{action.metavar}{'...' if action.nargs else ''}"
            for action in parser._actions
            if not action.option_strings
        ]
        rows.append((f"`{' '.join([name, *takes])}`", _CODE.sub(r"`\g<0>`", texts[name])))
    return _table(("action", "meaning"), rows)


def variables(*names: str) -> str:
    """The environment variables of these names, or all."""
    chosen = names or VARIABLES
    return _table(("environment variable", "meaning"), ((f"`{name}`", VARIABLES[name]) for name in chosen))


def settings() -> str:
    """What a `PUT` to the server may set."""
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    rows = []
    for field in fields_of(Settings):
        limits = field.keywords
        span = f", {limits['minimum']:g} to {limits['maximum']:g}" if "maximum" in limits else ""
        default = f" ({defaults[field.name]})" if defaults[field.name] is not None else ""
        rows.append((f"`{field.name}`", f"{field.text}{span}{default}"))
    return _table(("setting", "meaning"), rows)


def page_settings() -> str:
    """What ComfyUI's dialog has, read from the page's own declarations."""
    folder = FOLDER.parent / "crystools_tpu/web/comfyui"
    ranges = {
        name: f"{low} to {high} in steps of {step} ({initial})"
        for name, low, high, step, initial in _RANGE.findall((folder / "preferences.js").read_text())
    }
    declared = _PAGE_SETTING.findall((folder / "settings.js").read_text())
    return _table(
        ("setting", "meaning"),
        ((f"`{name}`", _SPAN.sub(lambda found: ranges[found[1]], text)) for name, _, text in declared),
    )


def metrics() -> str:
    """The catalogue."""
    return _table(
        ("metric", "type", "labels", "meaning"),
        (
            (f"`{spec.name}`", spec.type, ", ".join(f"`{label}`" for label in spec.labels), spec.help)
            for spec in CATALOGUE
        ),
    )


def presets() -> str:
    """One row a preset and model."""
    rows, known = [], requests.options()
    for preset in PRESETS:
        sets = [
            f"`{known[name].flag} {text}`"
            for name, value in preset.settings.items()
            for text in _as_typed(value)
        ]
        where = f"[source]({preset.source})"
        rows.append((f"`{preset.name}`", f"`{preset.model}`", preset.about, " ".join(sets), where))
    return _table(("preset", "model", "for", "as if these were given", "published"), rows)


def _as_typed(value: object) -> list[str]:
    """A field's value as it is typed: each of those of an option that may be repeated."""
    if not isinstance(value, tuple):
        return [f"{value:g}" if isinstance(value, float) else str(value)]
    if all(isinstance(each, float) for each in value):
        return [",".join(f"{each:g}" for each in value)]
    return [str(each) for each in value]


TABLES: Final[Mapping[str, Callable[..., str]]] = {
    "options": options,
    "actions": actions,
    "variables": variables,
    "settings": settings,
    "page-settings": page_settings,
    "metrics": metrics,
    "presets": presets,
}


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, *(tuple(cell.replace("|", r"\|") for cell in row) for row in rows)]
    texts = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([texts[0], "|---" * len(head) + "|", *texts[1:]]) + "\n"


def blocks(text: str) -> list[str]:
    """What a document has generated."""
    return [found[1] for found in _BLOCK.findall(text)]


def written(text: str) -> str:
    """The document with its tables as they should be."""

    def table(found: re.Match[str]) -> str:
        what, *names = found[2].split()
        return f"{found[1]}{TABLES[what](*names)}{found[3]}"

    return _BLOCK.sub(table, text)


if __name__ == "__main__":
    for path in FOLDER.glob("*.md"):
        path.write_text(written(path.read_text()))
