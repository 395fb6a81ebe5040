"""What a field of a request is, declared once, in the metadata of the dataclass's field.

The options of commands, the inputs of nodes, the keys of plans, and what a comparison of runs leaves out
derive from it. Imports neither jax, torch nor diffusers.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from enum import StrEnum
from functools import cache
from typing import Any, Final, TypeAlias

Check: TypeAlias = Callable[[str, Any], None]
"""Is called with a field's name and value; raises RequestError for a value that cannot be served."""

Parse: TypeAlias = Callable[[str, str], Any]
"""Makes a value of a field's name and a text; raises RequestError for a text that is none."""

Input: TypeAlias = tuple[str | list[str], dict[str, Any]]
"""An input of a node as ComfyUI takes it: the type, or the names to choose from; and what is said of it."""

PROMPT: Final[Input] = ("STRING", {"multiline": True, "default": ""})
IMAGE: Final[Input] = ("IMAGE", {})
SEED: Final[Input] = ("INT", {"min": 0, "max": 2**64 - 1, "control_after_generate": True})
"""A seed as KSampler has it, with the frontend's own widget after it: what becomes of it after a run."""

_METADATA: Final = "setting"


class Role(StrEnum):
    """The part of a run that depends on a field."""

    CONTENT = "content"
    """The picture alone: no time, and no program."""
    SCHEDULE = "schedule"
    """Values and lengths of tables, and how many steps and guidance branches there are: else no program."""
    SHAPE = "shape"
    """The arrays' shapes, and so the programs."""
    PROGRAM = "program"
    """What a step computes, and so the programs, but no array's shape."""
    WEIGHTS = "weights"
    """What the weights hold: the picture, and what is loaded; no program."""


@dataclass(frozen=True)
class Setting:
    """The declaration of a field.

    `help` is what it means, as the command line says it, and `default` MISSING where there is none. None as
    the default leaves the value to the checkpoint or to another field, and is not checked. `option` is its
    name on the command line without the dashes, None for the field's own; the `metavar` FILE is a file that
    is read. `widget` is its input of a node, without the default where that is the field's. `parse` makes the
    value of a text, of which the value's `str` is one; a value that is a tuple is made of several such texts
    where the field is `repeated`, else of one with commas between. A node's input that is such a text may
    also say that nothing is asked for, of which `parse` makes None.
    """

    role: Role
    help: str
    default: Any
    check: Check | None
    option: str | None
    metavar: str | None
    widget: Input | None
    parse: Parse | None = None
    repeated: bool = False

    @property
    def is_required(self) -> bool:
        """Whether a request must give the field."""
        return self.default is MISSING

    def parsed(self, field: str, given: Any) -> Any:
        """What was typed as the field's value: a text, or several where it is `repeated`.

        Of a field that is not parsed it is the value. Raises RequestError for a text that is none.
        """
        if self.parse is None:
            return given
        if self.repeated:
            return tuple(self.parse(field, text) for text in given)
        return self.parse(field, given)


def setting(
    default: Any = MISSING,
    *,
    role: Role,
    help: str,
    check: Check | None = None,
    option: str | None = None,
    metavar: str | None = None,
    widget: Input | None = None,
    kw_only: Any = MISSING,
    parse: Parse | None = None,
    repeated: bool = False,
) -> Any:
    """A dataclass's field with its declaration, a `Setting`."""
    declared = Setting(role, help, default, check, option, metavar, widget, parse, repeated)
    return dataclasses.field(default=default, kw_only=kw_only, metadata={_METADATA: declared})


def integer(low: int, high: int, step: int) -> Input:
    """The widget of a whole number from `low` to `high`, in steps from `low`."""
    return "INT", {"min": low, "max": high, "step": step}


def number(low: float, high: float, step: float, tooltip: str, **about: Any) -> Input:
    """The widget of a number from `low` to `high`."""
    return "FLOAT", {"min": low, "max": high, "step": step, "tooltip": tooltip, **about}


def declaration(field: dataclasses.Field[Any]) -> Setting | None:
    """The declaration of a dataclass's field; None for one of a dataclass that is no request."""
    declared: Setting | None = field.metadata.get(_METADATA)
    return declared


def settings_of(request_class: type[Any]) -> Mapping[str, Setting]:
    """The declarations by field, in the fields' order. Raises KeyError for a field that has none."""
    kind: Any = request_class
    return _settings_of(kind)


@cache
def _settings_of(kind: Any) -> Mapping[str, Setting]:
    return {field.name: field.metadata[_METADATA] for field in dataclasses.fields(kind)}


def names_of(request_class: type[Any], role: Role) -> tuple[str, ...]:
    """The fields that have this role."""
    return tuple(name for name, each in settings_of(request_class).items() if each.role is role)


def values_of(request: Any, role: Role) -> dict[str, Any]:
    """The request's values of the fields that have this role."""
    return {name: getattr(request, name) for name in names_of(type(request), role)}


def node_input(request_class: type[Any], name: str) -> Input:
    """The input of a node for this field. Raises ValueError for a field that is no input of a node."""
    declared = settings_of(request_class)[name]
    if declared.widget is None:
        raise ValueError(f"{name} has no widget")
    type_, about = declared.widget
    default = {} if declared.is_required else {"default": declared.default}
    return type_, {**default, **about}
