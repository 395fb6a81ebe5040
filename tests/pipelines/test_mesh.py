"""Which meshes there can be, how one is asked for, and which is taken where none is."""

from __future__ import annotations

import pickle
from typing import Any

import jax
import pytest

from crystools_pipelines.errors import RequestError
from crystools_pipelines.models import MODELS
from crystools_pipelines.parallel import defaults, mesh
from crystools_pipelines.parallel.defaults import read_defaults
from crystools_pipelines.parallel.mesh import make_mesh, shape_of
from crystools_pipelines.parallel.mesh_shape import MeshShape, legal_shapes, parse_mesh
from crystools_tpu.telemetry.chips import CHIPS

CHIP = {chip.name: chip for chip in CHIPS}


@pytest.mark.parametrize(
    ("devices", "branches", "widths", "shapes"),
    [
        (1, 2, (40, 64), [(1, 1, 1)]),
        (4, 1, (40, 64), [(1, 4, 1), (1, 2, 2), (1, 1, 4)]),
        (4, 2, (6, 64), [(1, 4, 1), (1, 2, 2), (2, 2, 1), (2, 1, 2)]),
        (3, 2, (4,), [(1, 3, 1)]),
        (6, 2, (12,), [(1, 6, 1), (1, 3, 2), (1, 2, 3), (1, 1, 6), (2, 3, 1), (2, 1, 3)]),
    ],
)
def test_data_divides_the_branches_tensor_the_widths_and_sequence_is_what_is_left(
    devices: int, branches: int, widths: tuple[int, ...], shapes: list[tuple[int, int, int]]
) -> None:
    legal = legal_shapes(devices, branches=branches, widths=widths)
    assert legal == [MeshShape(*shape) for shape in shapes]


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("dp=2,tp=4", MeshShape(2, 1, 4)),
        ("tp=4, sp = 2", MeshShape(1, 2, 4)),
        ("dp=1,sp=8,tp=1", MeshShape(1, 8, 1)),
    ],
)
def test_an_axis_that_is_not_named_is_1(text: str, shape: MeshShape) -> None:
    assert parse_mesh(text) == parse_mesh(str(shape)) == shape


@pytest.mark.parametrize("text", ["", "8", "dp=0", "dp=2;tp=4", "dp=-1", "pp=2", "dp=2,dp=4", "data=2"])
def test_what_is_no_mesh_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match=r"^mesh: .* is none; give some of dp, sp and tp") as caught:
        parse_mesh(text)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.field, again.message) == (caught.value.field, caught.value.message)


def test_a_mesh_that_cannot_be_is_refused_with_those_that_can() -> None:
    with pytest.raises(RequestError) as caught:
        make_mesh(jax.devices()[:4], branches=2, widths=(6,), shape=MeshShape(1, 1, 4))
    assert str(caught.value) == (
        "mesh: dp=1,sp=1,tp=4 cannot be had of 4 devices with this model; "
        "give dp=1,sp=4,tp=1 or dp=1,sp=2,tp=2 or dp=2,sp=2,tp=1 or dp=2,sp=1,tp=2"
    )


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was found that a model on four v6e chips is best split by tokens alone."""
    entry = {"model": "flux.2", "chip": "v6e", "devices": 4, "branches": 1, "mesh": "dp=1,sp=4,tp=1"}
    monkeypatch.setattr(defaults, "read_defaults", lambda: {"meshes": [entry]})


def default_of(monkeypatch: pytest.MonkeyPatch, chip: str | None, **asked: Any) -> MeshShape:
    """The mesh that is taken of the first devices, if they were these chips."""
    monkeypatch.setattr(mesh, "chip_spec", lambda kind: CHIP.get(chip or ""))
    usual: dict[str, Any] = {"devices": 4, "branches": 1, "widths": (4,), "model": "flux.2"}
    count = (usual | asked)["devices"]
    return shape_of(make_mesh(**(usual | asked | {"devices": jax.devices()[:count]})))


@pytest.mark.usefixtures("found")
def test_the_default_is_what_was_found_best(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_of(monkeypatch, "v6e") == MeshShape(1, 4, 1)
    assert default_of(monkeypatch, "v6e", shape=MeshShape(1, 1, 4)) == MeshShape(1, 1, 4)


@pytest.mark.usefixtures("found")
@pytest.mark.parametrize(
    ("chip", "asked", "usual"),
    [
        (None, {}, (1, 1, 4)),
        ("v5p", {}, (1, 1, 4)),
        ("v6e", {"model": "wan2.1-t2v"}, (1, 1, 4)),
        ("v6e", {"model": None}, (1, 1, 4)),
        ("v6e", {"branches": 2}, (2, 1, 2)),
    ],
)
def test_where_nothing_was_found_data_then_tensor_are_as_large_as_they_can_be(
    monkeypatch: pytest.MonkeyPatch, chip: str | None, asked: dict[str, Any], usual: tuple[int, int, int]
) -> None:
    assert default_of(monkeypatch, chip, **asked) == MeshShape(*usual)


@pytest.mark.parametrize(
    ("devices", "expected"), [(2, (1, 1, 2)), (3, (1, 1, 3)), (4, (1, 2, 2)), (6, (1, 1, 6)), (8, (1, 2, 4))]
)
def test_on_other_numbers_of_chips_the_next_ones_mesh_has_more_or_less_of_sequence(
    monkeypatch: pytest.MonkeyPatch, devices: int, expected: tuple[int, int, int]
) -> None:
    """Where that cannot be, the usual rule holds."""
    few = {"model": "flux.2", "chip": "v6e", "devices": 4, "branches": 1, "mesh": "dp=1,sp=2,tp=2"}
    many = few | {"devices": 8, "mesh": "dp=1,sp=2,tp=4"}
    monkeypatch.setattr(defaults, "read_defaults", lambda: {"meshes": [few, many]})
    assert default_of(monkeypatch, "v6e", devices=devices, widths=(12,)) == MeshShape(*expected)


def test_what_was_found_for_a_model_holds_for_another_with_the_same_transformer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = {"model": "wan2.1-t2v", "chip": "v6e", "devices": 4, "branches": 1, "mesh": "dp=1,sp=4,tp=1"}
    monkeypatch.setattr(defaults, "read_defaults", lambda: {"meshes": [entry]})
    assert default_of(monkeypatch, "v6e", model="wan2.2-t2v") == MeshShape(1, 4, 1)
    assert default_of(monkeypatch, "v6e", model="wan2.2-i2v") == MeshShape(1, 1, 4)  # it has more channels


def test_what_was_found_but_cannot_be_had_with_this_checkpoint_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = {"model": "flux.2", "chip": "v6e", "devices": 4, "branches": 1, "mesh": "dp=1,sp=1,tp=4"}
    monkeypatch.setattr(defaults, "read_defaults", lambda: {"meshes": [entry]})
    assert default_of(monkeypatch, "v6e", widths=(6,)) == MeshShape(1, 2, 2)


def test_every_default_is_the_best_of_those_compared_and_says_how_it_was_found() -> None:
    entries = read_defaults()["meshes"]
    assert len({(e["model"], e["chip"], e["devices"], e["branches"]) for e in entries}) == len(entries)
    for entry in entries:
        seconds = entry["estimated_seconds"]
        assert entry["model"] in MODELS
        assert entry["chip"] in CHIP
        assert entry["mesh"] == min((m for m in seconds if seconds[m] is not None), key=seconds.__getitem__)
        assert {parse_mesh(name).devices for name in seconds} == {entry["devices"]}
        assert entry["command"].startswith(f"crystools-tpu plan {entry['model']} --topology {entry['chip']}-")
        assert entry["libtpu"]
