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
    specs, unmatched = {}, []
    for name in names:
        spec = next((spec for pattern, spec in rules if re.fullmatch(pattern, name)), None)
        if spec is None:
            unmatched.append(name)
        else:
            specs[name] = spec
    if unmatched:
        raise UnmatchedParametersError(unmatched)
    return specs
