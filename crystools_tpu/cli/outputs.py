"""The files that a command is to write, looked at before its work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from crystools_exporters.run_log_file import FILE_NAME
from crystools_tpu.cli.errors import CommandError
from crystools_tpu.data_dir import data_dir
from crystools_tpu.whole_file import obstacle, same_file

Named: TypeAlias = tuple[str, Path | None]
"""What the user calls a file, such as an option, and the file, if one was given."""


def check_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[Named] = ()) -> None:
    """Raises CommandError for what cannot be written, or would replace another of them, or an input."""
    check_distinct(outputs, inputs)
    for name, path in outputs.items():
        if path is not None and (why := obstacle(path)) is not None:
            raise CommandError(f"{name}: {path}: {why}")


def check_distinct(outputs: Mapping[str, Path | None], inputs: Iterable[Named]) -> None:
    """Raises CommandError for an output that is another output or an input, or the history of runs."""
    history = [("the history of runs", data_dir() / f"{FILE_NAME}{end}") for end in ("", "-wal", "-shm")]
    others: list[Named] = [*inputs, *history]
    for name, path in outputs.items():
        for other, there in others:
            if path is not None and there is not None and same_file(path, there):
                raise CommandError(f"{name}: {path} is {other}, too; give another name")
        others.append((name, path))


def checkpoint_files(checkpoint: Path) -> Iterator[Named]:
    """The files of a checkpoint's own in its folder, which may hold others; none of what is no folder."""
    if checkpoint.is_dir():
        components = {config.parent for config in checkpoint.glob("*/*config.json")}
        files = [path for folder in components for path in folder.iterdir()]
        for path in (checkpoint / "model_index.json", *files):
            yield f"a file of --checkpoint ({path})", path
