"""What SQLite can say of the runs that somebody looks for.

It passes over a row whose report has not the words anywhere, at about a gibibyte in two seconds; only of what
is left the report is read, and looked at closely (`RunFilter.matches_wire`).
"""

from __future__ import annotations

import json
import re
from typing import Final

from crystools_tpu.telemetry import RunFilter

# Characters that are in JSON as they are, but for those that mean something in a pattern.
_PLAIN: Final = re.compile(r'[^\x00-\x1f"\\%_\x7f-\U0010ffff]+')


def condition_of(chosen: RunFilter) -> tuple[str, dict[str, str]]:
    """The condition that each of the runs meets, and not only they; and its parameters."""
    conditions, values = [], {}
    if chosen.status:
        conditions.append("status = :status")
        values["status"] = chosen.status.value
    if chosen.pipeline:
        conditions.append("(pipeline = :pipeline OR instr(report, :of_stage))")
        values |= {"pipeline": chosen.pipeline, "of_stage": f'"pipeline":{json.dumps(chosen.pipeline)}'}
    for number, word in enumerate(chosen.words):
        if plain := max(_PLAIN.findall(word), key=len, default=""):
            conditions.append(f"report LIKE :word{number}")
            values[f"word{number}"] = f"%{plain}%"
    return " AND ".join(conditions) or "true", values
