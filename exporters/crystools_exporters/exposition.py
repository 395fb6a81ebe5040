"""Prometheus' text format and OpenMetrics', as prometheus-client writes them, from label texts that are kept.

A series is called the same at every scrape: only its value is written anew, which is several times as fast.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

from prometheus_client.utils import floatToGoString

from crystools_exporters.catalogue import MetricSpec
from crystools_exporters.samples import Exemplar, Histogram, Labels

Series: TypeAlias = tuple[Labels, float | Histogram]
"""The label values of one series, and its value."""

END_OF_OPENMETRICS: Final = "# EOF\n"

_Key: TypeAlias = tuple[Labels, tuple[float, ...]]
_Starts: TypeAlias = tuple[str, ...]
"""How the lines of one series start: one, or one a bucket and those of count and sum."""


class Exposition:
    """Writes families. What it keeps of a series it drops when the series is gone. Not thread-safe."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[_Key, _Starts]] = {}

    def family(
        self, spec: MetricSpec, names: Sequence[str], series: Iterable[Series], *, openmetrics: bool
    ) -> str:
        """The metric with its comments; `names` are those of the labels."""
        old = self._kept.get(spec.name, {})
        kept = self._kept[spec.name] = {}
        lines = [_comments(spec, openmetrics)]
        for labels, value in series:
            bounds = value.bounds if isinstance(value, Histogram) else ()
            key = (labels, bounds)
            starts = kept[key] = old.get(key) or tuple(_starts(spec.name, names, labels, bounds))
            if isinstance(value, Histogram):
                lines.extend(_histogram_lines(starts, value, openmetrics))
            else:
                lines.append(f"{starts[0]}{_number(value)}\n")
        return "".join(lines)


def _comments(spec: MetricSpec, openmetrics: bool) -> str:
    name = spec.name.removesuffix("_total") if openmetrics else spec.name
    unit = f"# UNIT {name} {spec.unit}\n" if openmetrics and spec.suffix_unit else ""
    return f"# HELP {name} {spec.help}\n# TYPE {name} {spec.type}\n{unit}"


def _starts(name: str, names: Sequence[str], labels: Labels, bounds: tuple[float, ...]) -> Iterator[str]:
    pairs = list(zip(names, labels, strict=True))
    if not bounds:
        yield f"{name}{_label_text(pairs)} "
        return
    for bound in (*map(_number, bounds), "+Inf"):
        yield f"{name}_bucket{_label_text([*pairs, ('le', bound)])} "
    yield f"{name}_count{_label_text(pairs)} "
    yield f"{name}_sum{_label_text(pairs)} "


def _histogram_lines(starts: _Starts, histogram: Histogram, openmetrics: bool) -> Iterator[str]:
    exemplars = histogram.exemplars if openmetrics else {}
    total = 0
    for bucket, total in enumerate(itertools.accumulate(histogram.counts)):
        exemplar = _exemplar_text(exemplars[bucket]) if bucket in exemplars else ""
        yield f"{starts[bucket]}{_number(total)}{exemplar}\n"
    yield f"{starts[-2]}{_number(total)}\n"
    yield f"{starts[-1]}{_number(histogram.sum)}\n"


def _exemplar_text(exemplar: Exemplar) -> str:
    labels = _label_text([("run_id", exemplar.run_id)])
    return f" # {labels} {_number(exemplar.value)} {exemplar.time_unix_seconds}"


def _label_text(pairs: Sequence[tuple[str, str]]) -> str:
    if not pairs:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in sorted(pairs)) + "}"


def _number(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
