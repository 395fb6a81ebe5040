"""The table of what was run agrees with the bounds, and with the program that writes it."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from tests import compatibility
from tests.compatibility import COLUMNS, DOCUMENT, PACKAGES, Bound, declared, read_rows, write_rows

BOUNDS = {bound.name: bound for bound in declared()}
ROWS = [dict(zip(COLUMNS, row, strict=True)) for row in read_rows(DOCUMENT)]

TABLE = """Before.

| Python | set | torch | jax | libtpu | torchax | tokamax | diffusers | transformers | demo | parity | plan | server | on |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
| 3.11 | lowest | 2.8.0 | 0.10.0 | 0.0.40 | 0.0.13 | 0.0.12 | 0.38.0 | 5.6.0 | yes | yes | yes | yes | 2026-11-27 |

| another | table |
|---|---|
| of | two |
"""  # noqa: E501


def row(python: str, chosen: str, on: str) -> list[str]:
    return [python, chosen, *("1.0" for _ in PACKAGES), "yes", "yes", "no", "yes", on]


def test_both_ends_were_run_and_nothing_failed() -> None:
    assert {row["set"] for row in ROWS} == {"lowest", "newest"}
    for row in ROWS:
        assert [row[check] for check in compatibility.CHECKS] == ["yes"] * 4, row
        assert datetime.date.fromisoformat(row["on"])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['set']}-{row['Python']}")
def test_what_was_run_is_what_the_bounds_say(row: dict[str, str]) -> None:
    for package in set(PACKAGES) & set(BOUNDS):
        bound, ran = BOUNDS[package], Version(row[package])
        assert ran in SpecifierSet(f">={bound.lowest},<{bound.too_new}"), package
        if row["set"] == "lowest":
            assert ran == Version(bound.lowest), package


def test_a_row_takes_the_place_of_the_one_of_its_python_and_set(tmp_path: Path) -> None:
    document = tmp_path / "compatibility.md"
    document.write_text(TABLE)
    write_rows(document, [row("3.12", "newest", "2026-12-01"), row("3.11", "lowest", "2026-12-02")])
    assert read_rows(document) == [row("3.11", "lowest", "2026-12-02"), row("3.12", "newest", "2026-12-01")]
    before, after = document.read_text().split("\n\n")[0], document.read_text().split("\n\n")[2]
    assert (before, after) == ("Before.", "| another | table |\n|---|---|\n| of | two |\n")


def test_a_dependency_without_both_bounds_is_refused(tmp_path: Path) -> None:
    project = '[project]\nname = "a"\ndependencies = ["b[c]>=1.2,<3"]\n[project.optional-dependencies]\n'
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text(project + 'pipelines = ["a[tpu]"]\ncomfyui = []\ntpu = []\n')
    assert declared(pyproject) == [Bound("b", "1.2", "3")]
    pyproject.write_text(project + 'pipelines = ["d>=1"]\ncomfyui = []\ntpu = []\n')
    with pytest.raises(ValueError, match=r"d>=1: give both bounds"):
        declared(pyproject)


def test_its_cases_of_parity_are_of_tests_that_exist() -> None:
    for case in compatibility.parity_cases():
        file, _, test = case.partition("::")
        assert f"def {test.partition('[')[0]}(" in (compatibility.ROOT / file).read_text()
