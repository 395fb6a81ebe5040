"""What torchax names and torch lacks is found and declared, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from crystools_pipelines.interop.torchax_compat import DECLARED, declare_missing, named_operators

NAMESPACE = "crystools_tpu_test"


@pytest.fixture
def library() -> Iterator[torch.library.Library]:
    """A namespace of operators with `there`, `there.other` and nothing else."""
    made = torch.library.Library(NAMESPACE, "DEF")
    made.define("there(Tensor self) -> Tensor")
    made.define("there.other(Tensor self, int n) -> Tensor")
    yield made
    made._destroy()


def test_operators_are_found_in_all_sources_of_a_package_but_not_in_its_comments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "some_package_of_operators"
    (package / "ops").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError  # reading it does not import it")
    (package / "ops" / "some.py").write_text(
        "@op(torch.ops.aten.lu_solve)\n"
        "TABLE = {torch.ops.aten.gone.default: 1, aten.unbind.Dimname: 2}  # and aten.not_this\n"
        "  # aten.nor_this\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert named_operators(package.name) == {"lu_solve", "gone.default", "unbind.Dimname"}


def test_a_package_that_is_not_installed_names_none() -> None:
    assert named_operators("no_such_package_of_operators") == set()


def test_what_is_missing_is_declared_and_what_is_there_is_left_alone(library: torch.library.Library) -> None:
    operators = getattr(torch.ops, NAMESPACE)
    before = operators.there.default._schema
    asked = ["there", "there.other", "there.Dimname", "gone", "gone.default", "lost.default", "lost.out"]
    declared = list(declare_missing(asked, library, operators))
    assert declared == ["gone", "lost", "lost.out", "there.Dimname"]
    for name in asked:
        operator, _, overload = name.partition(".")
        assert getattr(operators, operator).overloads().count(overload or "default") == 1, name
    assert operators.there.default._schema == before


def test_where_torch_has_everything_nothing_is_declared(library: torch.library.Library) -> None:
    assert list(declare_missing(["there", "there.default"], library, getattr(torch.ops, NAMESPACE))) == []


def test_torch_has_all_that_torchax_names() -> None:
    for operator in named_operators("torchax"):
        name, _, overload = operator.partition(".")
        assert hasattr(getattr(torch.ops.aten, name), overload or "overloads"), operator
    assert {name.partition(".")[0] for name in DECLARED} <= set(dir(torch.ops.aten))
