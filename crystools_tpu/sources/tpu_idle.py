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
    them = "them" if attached.count > 1 else "it"
    if not use.users:
        if use.everybody:
            reason = f"idle: no program uses {them}"
        else:
            reason = f"no program of yours uses {them}; whether another's does cannot be seen"
        said = replace(attached, sentence=f"{attached.label}, {reason}")
        return Reading(attached=said, quiet=Quiet("idle", reason))
    reason = f"held by {_names(use.users)}, which {'serve' if len(use.users) > 1 else 'serves'} no metrics"
    if use.seconds >= START_SECONDS:
        said = replace(attached, sentence=f"{attached.label}, {reason}", users=use.users)
        raise SourceError(said.sentence, known=Reading(attached=said))
    said = replace(attached, sentence=f"{attached.label}, {reason} yet", users=use.users)
    return Reading(attached=said, quiet=Quiet("waiting", f"{reason} yet"))


def _names(users: Sequence[ChipUser]) -> str:
    """`pid 7 (python)`, `pid 7 (python) and pid 8 (python)`; of many the first ones and how many more."""
    names = [f"pid {user.pid} ({user.name})" for user in users[:_USERS_NAMED]]
    if len(users) > _USERS_NAMED:
        names.append(f"{len(users) - _USERS_NAMED} more")
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
