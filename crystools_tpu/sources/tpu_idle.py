"""What is said of TPU chips that are attached and whose metrics nobody serves: idle, or held by whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from crystools_tpu.sources.base import AttachedChips, ChipUser, Quiet, Reading, SourceError
from crystools_tpu.sources.tpu_users import Use

START_SECONDS: Final = 15.0
"""So long a program may hold chips before it serves their metrics, and after it has ended to do so."""

_USERS_NAMED: Final = 3


def unserved(attached: AttachedChips, use: Use) -> Reading:
    """Chips of which no port gives figures, because none is open, and their use.

    Raises `SourceError` where a program has held them for so long that it seems to serve no metrics at all.
    """
    if not use.users:
        return _unused(attached, certain=use.everybody)
    reason = f"held by {_names(use.users)}, which {'serve' if len(use.users) > 1 else 'serves'} no metrics"
    is_starting = use.seconds < START_SECONDS
    if is_starting:
        reason += " yet"
    sentence = f"{attached.label}, {reason}"
    known = Reading(attached=replace(attached, sentence=sentence, word="in use", users=use.users))
    if is_starting:
        return replace(known, quiet=Quiet("waiting", reason))
    raise SourceError(sentence, known=known)


def _unused(attached: AttachedChips, *, certain: bool) -> Reading:
    word, said = "idle", "idle: no program uses {}"
    if not certain:
        word, said = "idle?", "no program of yours uses {}; whether another's does cannot be seen"
    sentence = f"{attached.label}, {said.format('them' if attached.count > 1 else 'it')}"
    quiet = Quiet("idle", said.format("the chips"))
    return Reading(attached=replace(attached, sentence=sentence, word=word), quiet=quiet)


def _names(users: Sequence[ChipUser]) -> str:
    """`pid 7 (python)`, `pid 7 (python) and pid 8 (python)`; of many the first ones and how many more."""
    names = [f"pid {user.pid} ({user.name})" for user in users[:_USERS_NAMED]]
    if len(users) > _USERS_NAMED:
        names.append(f"{len(users) - _USERS_NAMED} more")
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
