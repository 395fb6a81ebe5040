"""jax's explanation of a compile in short words, and what to do about it.

jax gives the differing keys of its cache of traced functions (`at x, now f32[4] and before f32[3]`), or says
that it has never seen the function; see `jax._src.interpreters.partial_eval.explain`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

_DIFFERENCE: Final = re.compile(r"at (?P<where>.+?), now (?P<now>.+?) and before (?P<before>.+?)(?:, so .+)?")
_ARRAY: Final = re.compile(r"(?P<type>\w+)\[(?P<shape>[^\]@]*)(?P<split>[^\]]*)\](?P<weak>\{.*\})?")
_NEVER_SEEN: Final = re.compile(r"never seen function:;? *(?P<name>\S+)")
_SETTING: Final = re.compile(r"(?P<name>\w+) differs: now (?P<now>.+) and before (?P<before>.+)")

_MOST_CHARACTERS: Final = 100


class Reason(NamedTuple):
    """Why something was compiled, and what avoids that, where it is known."""

    text: str
    remedy: str | None = None


def short_reason(explanation: str) -> Reason:
    """`shape f32[8,8] instead of f32[16,16]`, of the first of the reasons that jax gives."""
    if never_seen := _NEVER_SEEN.search(explanation):
        text = f"{never_seen['name']} was a new function"
        return Reason(text, "make the compiled function once, before the steps")
    for said in explanation.split("; "):
        if difference := _DIFFERENCE.fullmatch(said.strip()):
            return _of_arguments(difference["where"], difference["now"], difference["before"])
        if setting := _SETTING.fullmatch(said.strip()):
            text = f"jax's {setting['name']} was {setting['now']} instead of {setting['before']}"
            return Reason(text, "set it before the first step")
    if "Tracing context doesn't match" in explanation:
        return Reason("a setting of jax's had changed", "set it before the first step")
    return Reason(_cut(explanation))


def _of_arguments(where: str, now: str, before: str) -> Reason:
    arrays = _ARRAY.fullmatch(now), _ARRAY.fullmatch(before)
    if arrays[0] is None or arrays[1] is None:
        text = f"other inputs at {where}: {now} instead of {before}"
        return Reason(_cut(text), "give every step the same inputs")
    first, second = arrays[0], arrays[1]
    kinds = (("shape", "shape"), ("type", "type"), ("split", "sharding"), ("weak", "kind of number"))
    what = next((word for group, word in kinds if first[group] != second[group]), "input")
    return Reason(f"{what} {now} instead of {before}", f"give every step the same {what}")


def joined_reasons(explanations: Iterable[str]) -> Reason:
    """The reasons of several compiles, each once; the remedy of the first that has one."""
    reasons = list(dict.fromkeys(short_reason(explanation) for explanation in explanations if explanation))
    remedy = next((reason.remedy for reason in reasons if reason.remedy), None)
    return Reason(", ".join(dict.fromkeys(reason.text for reason in reasons[:2])), remedy)


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"
