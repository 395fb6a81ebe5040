"""Sharding as data: a table of patterns and partition specs, applied to the names of parameters."""

import re
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from jax.sharding import PartitionSpec

from crystools_pipelines.errors import UnmatchedParametersError

Rules: TypeAlias = Sequence[tuple[str, PartitionSpec]]


def match(rules: Rules, names: Iterable[str]) -> dict[str, PartitionSpec]:
    """The spec of each name: that of the first rule whose pattern matches the whole name.

    Raises UnmatchedParametersError with every name that no rule matches.
    """
    names = tuple(names)
    specs = {
        name: next(spec for pattern, spec in rules if re.fullmatch(pattern, name))
        for name in names
        if any(re.fullmatch(pattern, name) for pattern, _ in rules)
    }
    if unmatched := [name for name in names if name not in specs]:
        raise UnmatchedParametersError(unmatched)
    return specs
