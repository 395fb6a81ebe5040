"""What is generated is as its sources have it: `make schemas` writes it anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs import make_schemas

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("path", make_schemas.outputs(), ids=lambda path: path.name)
def test_the_schemas_and_the_pages_types_are_what_the_dataclasses_give(path: Path) -> None:
    assert path.read_text() == make_schemas.outputs()[path], "run `make schemas`"
