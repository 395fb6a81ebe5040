"""Opens histories on disks that are full or cannot be written. Started by `unshare`, with mounts of its own.

Usage: run_log_on_odd_disks.py FOLDER. Prints a JSON object: what could be read in each case, and what was
said.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

from crystools_exporters.run_log import RunLog, RunLogError
from tests.exporters.conftest import REPORT


def main() -> None:
    root = Path(sys.argv[1])
    said = {
        "read-only": read_only(root / "read-only"),
        "read-only, killed": read_only(root / "killed", killed=True),
        "read-only, in use": in_use(root / "in-use"),
        "read-only, nothing there": said_of(made(root / "nothing"), on="read-only"),
        "full": full(root / "full"),
        "full, nothing there": full_from_the_start(root / "full-new"),
    }
    print(json.dumps(said))


def read_only(folder: Path, *, killed: bool = False) -> dict[str, object]:
    with RunLog(made(folder)) as log:
        log.write([REPORT])
        if killed:  # what it had committed is in the write-ahead log alone
            left = {file: file.read_bytes() for file in folder.iterdir() if not file.name.endswith("-shm")}
    if killed:
        for file, content in left.items():
            file.write_bytes(content)
    return said_of(folder, on="read-only")


def in_use(folder: Path) -> dict[str, object]:
    """A process that may write has it open by another mount, as another container would."""
    inside = made(folder.with_name("inside"))
    mount("--bind", made(folder), inside)
    mount("-o", "remount,ro,bind", inside)
    with RunLog(folder) as log:
        log.write([REPORT])
        return said_of(inside)


def full(folder: Path) -> dict[str, object]:
    mount("-t", "tmpfs", "-o", "size=512k", "none", made(folder))
    with RunLog(folder) as log:
        log.write([REPORT])
    fill(folder)
    refused = said_of(folder)
    (folder / "fill").unlink()
    return {**refused, "afterwards": said_of(folder)}


def full_from_the_start(folder: Path) -> dict[str, object]:
    mount("-t", "tmpfs", "-o", "size=64k", "none", made(folder))
    fill(folder)
    return said_of(folder)


def said_of(folder: Path, on: str = "") -> dict[str, object]:
    if on == "read-only":
        mount("--bind", folder, folder)
        mount("-o", "remount,ro,bind", folder)
    read: list[str] = []
    try:
        with RunLog(folder) as log:
            read = [run.run_id for run in log.page(10)]
            log.write([dataclasses.replace(REPORT, run_id="another")])
    except RunLogError as error:
        return {"read": read, "said": str(error), "left": left_in(folder)}
    return {"read": read, "said": None, "left": left_in(folder)}


def left_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.name != "fill")


def fill(folder: Path) -> None:
    with (folder / "fill").open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            return


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


if __name__ == "__main__":
    main()
