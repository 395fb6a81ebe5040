"""Runs what people run in environments of the lowest and of the newest packages that the bounds allow.

    python3 -m tests.compatibility python3.11 python3.12   # both sets on each; the table of the document
    .venv/bin/python -m tests.compatibility --over-pins   # the newest over the pins, as `make test` does

An environment of a set has several GB, because torch brings CUDA's libraries. It is removed when it has run,
unless `--keep` names a folder for it, where the next call finds it. Needs the standard library alone.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
DOCUMENT: Final = ROOT / "docs" / "compatibility.md"
PYTHONS: Final = ("python3.11", "python3.12", "python3.13")
SETS: Final = ("lowest", "newest")
PACKAGES: Final = ("torch", "jax", "libtpu", "torchax", "tokamax", "diffusers", "transformers")
CHECKS: Final = ("demo", "parity", "plan", "server")
COLUMNS: Final = ("Python", "set", *PACKAGES, *CHECKS, "on")

_TEST_TOOLS: Final = ("pytest", "pytest-asyncio", "pytest-timeout", "accelerate", "hypothesis", "jsonschema")
# Of each model one case on one device, and one on eight.
_PARITY_CASES: Final = {
    "wan21": ("latents_and_frames", "1-small-5.0-3.0", "8-wide-5.0-3.0"),
    "wan22_t2v": ("latents_and_frames", "as published", "wide"),
    "wan22_i2v": ("latents_and_frames", "small", "wide"),
    "cogvideox": ("latents_and_frames", "1-guided", "8-guided"),
    "flux2": ("latents_and_image", "1-size0-1.0-7", "8-size3-4.0-42"),
}
_REQUIREMENT: Final = re.compile(r"([\w.-]+)(\[[\w,]+\])?>=([\w.]+),<([\w.]+)")


def main(argv: Sequence[str] | None = None) -> int:
    """0 where everything that ran succeeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("pythons", nargs="*", metavar="PYTHON", help=f"(default: {' '.join(PYTHONS)})")
    parser.add_argument("--set", choices=SETS, action="append", dest="sets", help="one of both alone")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where the environments stay")
    parser.add_argument("--over-pins", action="store_true", help="the newest over this Python's packages")
    arguments = parser.parse_args(argv)
    if arguments.over_pins:
        return run_over_pins(arguments.keep or Path(sys.prefix) / "newest")
    rows = []
    for python in arguments.pythons or filter(shutil.which, PYTHONS):
        for chosen in arguments.sets or SETS:
            rows.append(run_set(python, chosen, arguments.keep))
            write_rows(DOCUMENT, rows)
            print("\t".join(rows[-1]), flush=True)
    return int(any("no" in row for row in rows))


@dataclass(frozen=True)
class Bound:
    """A dependency with the lowest version that was run, and the first that was not."""

    name: str
    lowest: str
    too_new: str


def declared(pyproject: Path = ROOT / "pyproject.toml") -> list[Bound]:
    """What the pipelines, ComfyUI's nodes and a TPU need. Raises ValueError where a bound is missing."""
    project = tomllib.loads(pyproject.read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["pipelines"], *extras["comfyui"], *extras["tpu"]]
    bounds = []
    for line in lines:
        if line.startswith(project["name"]):
            continue
        if (match := _REQUIREMENT.fullmatch(line)) is None:
            raise ValueError(f"{line}: give both bounds, as in name>=1.2,<3")
        bounds.append(Bound(match[1], match[3], match[4]))
    return bounds


def run_set(python: str, chosen: str, keep: Path | None) -> list[str]:
    """Makes the environment, runs every check in it, and tells the row of the table."""
    answer = subprocess.check_output([python, "-c", "import platform; print(platform.python_version())"])
    version = answer.decode().strip()
    with tempfile.TemporaryDirectory(prefix="crystools-tpu-compatibility-") as folder:
        environment = (keep or Path(folder)) / f"{chosen}-{version}"
        interpreter = _make_environment(python, environment, chosen)
        versions = _versions(interpreter)
        passed = [check(interpreter, name, Path(folder)) for name in CHECKS]
    minor = ".".join(version.split(".")[:2])
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    cells = [versions.get(package, "none") for package in PACKAGES]
    return [minor, chosen, *cells, *("yes" if each else "no" for each in passed), today]


def _make_environment(python: str, folder: Path, chosen: str) -> Path:
    interpreter = folder / "bin" / "python"
    if not interpreter.exists():
        subprocess.run([python, "-m", "venv", folder], check=True)
    pip = [str(interpreter), "-m", "pip", "install", "--quiet"]
    pins = folder / "pins.txt"
    pins.write_text("".join(f"{each.name}=={each.lowest}\n" for each in declared()))
    constraint = ["--constraint", str(pins)] if chosen == "lowest" else []
    subprocess.run([*pip, *constraint, f"{ROOT}[comfyui,tpu]"], check=True)
    subprocess.run([*pip, *constraint, *_TEST_TOOLS], check=True)
    return interpreter


def _versions(interpreter: Path) -> dict[str, str]:
    answer = subprocess.check_output([interpreter, "-m", "pip", "list", "--format", "json"])
    return {each["name"]: each["version"].partition("+")[0] for each in json.loads(answer)}


def check(interpreter: Path, name: str, folder: Path) -> bool:
    """Whether it succeeds. What it printed stands in the terminal."""
    started_at = time.monotonic()
    commands = _commands(name, folder)
    environ = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XDG_CACHE_HOME": str(folder / "cache"),
        "CRYSTOOLS_TPU_DATA_DIR": str(folder / "data"),
    }
    environ.pop("PYTHONPATH", None)
    in_checkout = commands[0][0] == "pytest"  # the others run what was installed
    passed = all(
        subprocess.run(
            [interpreter, "-m", *command], env=environ, cwd=ROOT if in_checkout else folder, check=False
        ).returncode
        == 0
        for command in commands
    )
    print(f"{name}: {passed}, {time.monotonic() - started_at:.0f} s", flush=True)
    return passed


def _commands(name: str, folder: Path) -> list[list[str]]:
    """What `python -m` is to run, one after the other."""
    # A package may warn of another that is newer than it: that is no error of ours.
    pytest = ["pytest", "-q", "-p", "no:cacheprovider", "-o", "filterwarnings=default"]
    tiny = str(folder / "tiny")
    size = ["--height", "64", "--width", "64", "--steps", "3"]
    return {
        "demo": [["crystools_tpu", "demo", "--once", "--out", str(folder / "demo")]],
        "parity": [[*pytest, *parity_cases()]],
        "one parity": [[*pytest, *parity_cases()[:1]]],
        "plan": [
            ["crystools_tpu", "tiny-checkpoint", "flux.2", tiny],
            ["crystools_tpu", "plan", "flux.2", "--topology", "v6e-4", "--checkpoint", tiny, *size],
        ],
        "server": [[*pytest, "tests/server"]],
    }[name]


def parity_cases() -> list[str]:
    """The tests that compare each model with diffusers, as pytest names them."""
    return [
        f"tests/pipelines/test_{model}_parity.py::test_{what}_are_those_of_diffusers[{case}]"
        for model, (what, *cases) in _PARITY_CASES.items()
        for case in cases
    ]


def run_over_pins(folder: Path) -> int:
    """The newest of the direct dependencies over the packages of this Python, all but torch.

    PyPI's torch for Linux is CUDA's, and of several GB: the one of constraints.txt stays. Where nothing is
    newer than what is here, the tests have run with it already.
    """
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    interpreter = folder / "bin" / "python"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    pinned = sysconfig.get_path("purelib")
    (packages / "pinned.pth").write_text(f"import site; site.addsitedir({pinned!r})\n")
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    wanted = [line for line in lines if not line.startswith(("#", "torch>"))]
    pip = [sys.executable, "-m", "pip", "--python", str(interpreter), "install", "--quiet", "--upgrade"]
    subprocess.run([*pip, *wanted], check=True)
    newer = sorted(path.name.removesuffix(".dist-info") for path in packages.glob("*.dist-info"))
    print(f"newer than the pins: {', '.join(newer) or 'nothing'}", flush=True)
    if not newer:
        return 0
    with tempfile.TemporaryDirectory(prefix="crystools-tpu-compatibility-") as temporary:
        passed = [check(interpreter, name, Path(temporary)) for name in ("demo", "one parity")]
    return int(not all(passed))


def read_rows(document: Path) -> list[list[str]]:
    """The rows of the document's table, without its head."""
    cells = [_cells(line) for line in document.read_text().splitlines() if line.startswith("| ")]
    return [row for row in cells if len(row) == len(COLUMNS) and row[1] in SETS]


def write_rows(document: Path, rows: Sequence[Sequence[str]]) -> None:
    """Puts these rows into the document's table, in the place of those of the same Python and set."""
    kept = {(row[0], row[1]): list(row) for row in [*read_rows(document), *rows]}
    text = document.read_text()
    head = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n"
    before, _, rest = text.partition(head)
    after = re.sub(r"^(\|.*\n)+", "", rest)
    table = "".join(f"| {' | '.join(kept[key])} |\n" for key in sorted(kept))
    document.write_text(before + head + table + after)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


if __name__ == "__main__":
    sys.exit(main())
