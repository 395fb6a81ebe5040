"""Whether what is installed is what this was run with: one warning, before an import can fail for it.

The bounds are declared once, in pyproject.toml. An installation has them in its metadata; a clone has them in
requirements.txt, which is the same. Docs/compatibility.md says with which versions they were run.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement

_DISTRIBUTION: Final = "crystools-tpu"
_REQUIREMENTS: Final = Path(__file__).parents[1] / "requirements.txt"
_EXTRAS: Final = ("", "pipelines", "comfyui")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OutOfBounds:
    """A package that is installed in another version than this was run with."""

    requirement: Requirement
    installed: str

    def __str__(self) -> str:
        return f"{self.requirement.name} {self.installed} ({self.requirement.specifier})"


@functools.cache
def warn_of_what_is_out_of_bounds() -> None:
    """Says it in one line with the command that mends it, once a process. It may work all the same."""
    found = list(out_of_bounds(declared()))
    if found:
        _log.warning(
            "crystools-tpu was not run with what is installed: %s. Should it fail: %s -m pip install %s",
            ", ".join(map(str, found)),
            sys.executable,
            " ".join(f"'{each.requirement.name}{each.requirement.specifier}'" for each in found),
        )


def declared(distribution: str = _DISTRIBUTION, requirements: Path = _REQUIREMENTS) -> list[Requirement]:
    """What the metadata of the installed distribution says; where it is not installed, a clone's file."""
    try:
        lines = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        lines = requirements.read_text().splitlines() if requirements.is_file() else []
    ours = [each for each in requirements_in(lines, _EXTRAS) if each.name != distribution]
    return list({(each.name, str(each.specifier)): each for each in ours}.values())  # of each extra once


def requirements_in(lines: Iterable[str], extras: Iterable[str] = ("",)) -> Iterator[Requirement]:
    """The requirements that hold on this machine, with any of the extras; what is no requirement is none."""
    for line in lines:
        with contextlib.suppress(InvalidRequirement):  # a comment, or what only another pip can read
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                yield requirement


def out_of_bounds(
    requirements: Iterable[Requirement], version: Callable[[str], str] = importlib.metadata.version
) -> Iterator[OutOfBounds]:
    """The packages that are installed out of their bounds. What is missing is told by its import."""
    for requirement in requirements:
        try:
            installed = version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            yield OutOfBounds(requirement, installed)
