"""The catalogue's metrics and the reports' fields under OpenTelemetry's names, units and attributes.

Where a semantic convention says what a metric says, its name is used: `hw.*` for the chips and `system.*` for
the host (both in development). The others keep their own names, in such a form that a collector's translation
to Prometheus (dots to underscores, the unit and `_total` at the end) gives the catalogue's names again. Their
attributes are the catalogue's labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from crystools_exporters.catalogue import CATALOGUE, MetricSpec

Attribute: TypeAlias = str | bool | int | float | tuple[str, ...] | tuple[int, ...] | tuple[float, ...]

PREFIX: Final = "crystools_tpu"

# A name in the catalogue ends with its unit; here the unit is a field, as UCUM writes it.
_UNITS: Final = {
    "bytes": "By", "celsius": "Cel", "flop": "{FLOP}", "ratio": "1", "seconds": "s", None: "",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Instrument:
    """How one metric of the catalogue is exported.

    `attributes` names the attribute of each of the catalogue's labels, in their order; `fixed` are
    attributes that every point has besides.
    """

    name: str
    kind: Literal["gauge", "updowncounter", "counter", "histogram"]
    unit: str
    attributes: tuple[str, ...]
    fixed: Mapping[str, str] = field(default_factory=dict)

    def attributes_of(self, labels: tuple[str, ...]) -> dict[str, str]:
        """A point's attributes for the values of the catalogue's labels."""
        return {**dict(zip(self.attributes, labels, strict=True)), **self.fixed}


_ACCELERATOR: Final = ("hw.id",)
_FILESYSTEM: Final = ("system.filesystem.mountpoint",)

_CONVENTIONS: Final[Mapping[str, Instrument]] = {
    "crystools_tpu_chip_hbm_used_bytes": Instrument(
        "hw.gpu.memory.usage", "updowncounter", "By", _ACCELERATOR
    ),
    "crystools_tpu_chip_hbm_total_bytes": Instrument(
        "hw.gpu.memory.limit", "updowncounter", "By", _ACCELERATOR
    ),
    "crystools_tpu_chip_duty_cycle_ratio": Instrument(
        "hw.gpu.utilization", "gauge", "1", _ACCELERATOR, {"hw.gpu.task": "general"}
    ),
    "crystools_tpu_chip_temperature_celsius": Instrument("hw.temperature", "gauge", "Cel", _ACCELERATOR),
    "crystools_tpu_host_memory_used_bytes": Instrument(
        "system.memory.usage", "updowncounter", "By", (), {"system.memory.state": "used"}
    ),
    "crystools_tpu_host_memory_total_bytes": Instrument("system.memory.limit", "updowncounter", "By", ()),
    "crystools_tpu_host_disk_used_bytes": Instrument(
        "system.filesystem.usage", "updowncounter", "By", _FILESYSTEM, {"system.filesystem.state": "used"}
    ),
    "crystools_tpu_host_disk_total_bytes": Instrument(
        "system.filesystem.limit", "updowncounter", "By", _FILESYSTEM
    ),
}


def _own(spec: MetricSpec) -> Instrument:
    name = spec.name.removeprefix(f"{PREFIX}_").removesuffix("_total")
    if spec.unit is not None:
        name = name.removesuffix(f"_{spec.unit}")
    return Instrument(f"{PREFIX}.{name}", spec.type, _UNITS[spec.unit], spec.labels)


EXPORTED: Final = tuple(spec for spec in CATALOGUE if spec.type != "histogram" or spec.buckets)
"""All but the distributions that the runtime counts itself: an instrument takes observations, not buckets."""

INSTRUMENTS: Final[Mapping[str, Instrument]] = {
    spec.name: _CONVENTIONS.get(spec.name) or _own(spec) for spec in EXPORTED
}
"""The instruments by the catalogue's names, in its order."""


def span_attributes(values: Mapping[str, Any], prefix: str = PREFIX) -> dict[str, Attribute]:
    """A report's plain fields as attributes: `{"mfu": {"ratio": 0.4}}` is `crystools_tpu.mfu.ratio`.

    A list of objects becomes one list for each of their fields (`crystools_tpu.hbm.peak_bytes`). What is
    not known has no attribute; neither has a list in which something is not known.
    """
    attributes: dict[str, Attribute] = {}
    for name, value in values.items():
        key = f"{prefix}.{name}"
        if isinstance(value, Mapping):
            attributes |= span_attributes(value, key)
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            columns = {column: [row[column] for row in value] for column in value[0]}
            attributes |= span_attributes(columns, key)
        elif isinstance(value, list):
            if value and None not in value:
                attributes[key] = tuple(value)
        elif value is not None:
            # The protocol's whole numbers have 64 bits, one of them for the sign.
            fits = isinstance(value, (str, float)) or (isinstance(value, int) and -(2**63) <= value < 2**63)
            attributes[key] = value if fits else str(value)
    return attributes
