"""The help of a command: what it is for, its options, and examples that can be copied as they stand."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from typing import Final, TypeAlias

PROGRAM: Final = "crystools-tpu"

Example: TypeAlias = tuple[str, str]
"""What it does, and the command line without the program's name."""


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    about: str,
    *examples: Example,
    more: str = "",
    usage: str | None = None,
) -> argparse.ArgumentParser:
    """A parser of this name below `commands`. `more` stands between its options and its examples."""
    return commands.add_parser(
        name,
        help=about,
        description=f"{about[0].upper()}{about[1:]}.",
        epilog=epilog(more, examples),
        usage=usage,
        formatter_class=HelpFormatter,
    )


def epilog(more: str, examples: tuple[Example, ...]) -> str:
    """What stands at the end of a help: a paragraph, and each example with what it does above it."""
    lines = [f"\n  # {what}\n  {PROGRAM} {command}" for what, command in examples]
    return "\n\n".join(filter(None, [more, "examples:" + "".join(lines) if lines else ""]))


class HelpFormatter(argparse.HelpFormatter):
    """Folds paragraphs as argparse does, and examples where a shell goes on with the next line."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = (line for part in text.split("\n") for line in _folded(part, max(width, 20)))
        return "\n".join(f"{indent}{line}".rstrip() for line in lines)


def _folded(line: str, width: int) -> Iterator[str]:
    if not line.startswith("  "):
        yield from textwrap.wrap(line, width) or [""]
        return
    if line.startswith("  #"):
        yield from textwrap.wrap(line.strip(), width, initial_indent="  ", subsequent_indent="  # ")
        return
    words = line.strip().replace(" --", "\n--").split("\n")
    current = f"  {words[0]}"
    for word in words[1:]:
        if len(current) + len(word) + 3 > width:
            yield f"{current} \\"
            current = f"      {word}"
        else:
            current += f" {word}"
    yield current
