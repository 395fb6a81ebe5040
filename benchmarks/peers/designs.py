"""The designs to compile, at the shapes for which their authors published a figure."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from benchmarks.peers import cogvideox, flux2, wan21


@dataclass(frozen=True)
class Published:
    """One design at one shape on v6e-8, and the seconds of a step that its author measured there.

    `of` is a module with the facts of the design: `MESH`, `STACKS` (the configuration's names of how many
    blocks there are) and `trace`. `calibrates` says whether the calibration was fitted to the figure.
    """

    of: ModuleType
    model: str
    shape: dict[str, int]
    step_seconds: float
    calibrates: bool = False
    target: float | None = None
    """Our default's share of its time, at most."""


DESIGNS = {
    "wan2.1-t2v": Published(
        wan21, "wan2.1-t2v", {"height": 720, "width": 1280, "frames": 81}, 4.54, calibrates=True, target=0.6
    ),
    "cogvideox-t2v": Published(
        cogvideox,
        "cogvideox-t2v",
        {"height": 720, "width": 1280, "frames": 81},
        2.08,
        calibrates=True,
        target=0.6,
    ),
    # By the script; the node, whose program is the same, was published at 2.4 s.
    "flux.2": Published(flux2, "flux.2", {"height": 1024, "width": 1024}, 0.272, target=0.5),
    "wan2.1-t2v-480p": Published(wan21, "wan2.1-t2v", {"height": 480, "width": 832, "frames": 81}, 1.37),
}


def depths(design: Published, configuration: dict[str, Any]) -> dict[str, int]:
    """How many blocks each stack has."""
    return {name: int(configuration[name]) for name in design.of.STACKS}
