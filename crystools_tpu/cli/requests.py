"""What commands ask of a model: the options that are fields of its request, the mesh, and what is refused."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from crystools_pipelines.errors import PipelineError, RequestError, SaveError
from crystools_pipelines.models import MODELS
from crystools_pipelines.parallel.mesh_shape import MeshShape, parse_mesh
from crystools_pipelines.requests.fields import Setting, settings_of
from crystools_pipelines.requests.presets import PRESETS, preset_named
from crystools_pipelines.requests.schedule import check_steps_agree
from crystools_tpu.cli.errors import CommandError, WorkFailed

_TYPES: Final[Mapping[str, Callable[[str], Any]]] = {"int": int, "float": float, "str": str}


@dataclass(frozen=True)
class Option:
    """An option that is a field of requests: `settings` are the models' declarations of it, by their ids."""

    field: str
    annotation: str
    settings: Mapping[str, Setting]

    @property
    def setting(self) -> Setting:
        """One of the declarations; role, option and metavar are the same in all of them."""
        return next(iter(self.settings.values()))

    @property
    def flag(self) -> str:
        """The option as it is typed, such as `--seed`."""
        return "--" + (self.setting.option or self.field.replace("_", "-"))

    @property
    def help(self) -> str:
        """The help: what each model says of the field, with the models' names where they differ."""
        models: dict[str, list[str]] = {}
        for model, setting in self.settings.items():
            models.setdefault(setting.help, []).append(model)
        if [*models.values()] == [list(MODELS)]:
            return self.setting.help
        return "; ".join(f"{said} ({', '.join(those)})" for said, those in models.items())

    @property
    def is_required(self) -> bool:
        """Whether every model needs it."""
        needed = [model for model, setting in self.settings.items() if setting.is_required]
        return needed == list(MODELS)

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Adds it; what is not given is None."""
        about: dict[str, Any] = {"dest": self.field, "help": self.help.replace("%", "%%")}
        if self.setting.parse is not None:
            action = "append" if self.setting.repeated else "store"
            parser.add_argument(self.flag, action=action, metavar=self.setting.metavar, **about)
        # Of a union the first type is how it is typed.
        elif (kind := self.annotation.partition(" ")[0]) == "bool":
            parser.add_argument(self.flag, action="store_true", default=None, **about)
        else:
            about |= {"type": _TYPES[kind], "metavar": self.setting.metavar, "required": self.is_required}
            parser.add_argument(self.flag, **about)


def options() -> dict[str, Option]:
    """The fields of all models' requests, by name."""
    annotations: dict[str, str] = {}
    settings: dict[str, dict[str, Setting]] = {}
    for model in MODELS.values():
        declared = settings_of(model.request_class())
        for field in dataclasses.fields(model.request_class()):
            written = field.type if isinstance(field.type, str) else inspect.formatannotation(field.type)
            annotations.setdefault(field.name, written)
            settings.setdefault(field.name, {})[model.id] = declared[field.name]
    return {name: Option(name, annotations[name], settings[name]) for name in settings}


def add_preset(parser: argparse.ArgumentParser) -> None:
    """Adds the option `--preset`, which `request_of` reads."""
    models: dict[str, list[str]] = {}
    for preset in PRESETS:
        models.setdefault(preset.name, []).append(preset.model)
    names = "; ".join(f"{name} ({', '.join(those)})" for name, those in models.items())
    about = f"settings and LoRAs that are published together, for what is not given here: {names}"
    parser.add_argument("--preset", metavar="NAME", help=about)


def add_mesh(parser: argparse.ArgumentParser) -> None:
    """Adds the option `--mesh`, which `mesh_of` reads."""
    about = "how chips share the work, such as dp=2,tp=4 (default: best known)"
    parser.add_argument("--mesh", metavar="SHAPE", help=about)


def request_of(arguments: argparse.Namespace, *, of_any_content: bool = False) -> Any:
    """The model's request with what was given; the rest is the preset's, or the model's default.

    `of_any_content` is for what depends on no content, which then need not be given. Raises CommandError for
    an option that the model does not have, needs, or cannot serve.
    """
    request_class = MODELS[arguments.model].request_class()
    known = options()
    values = {name: getattr(arguments, name, None) for name in known}
    given = {name: value for name, value in values.items() if value is not None}
    for name, option in known.items():
        declared = option.settings.get(arguments.model)
        if declared is None and name in given:
            raise CommandError(f"{option.flag}: {arguments.model} has no such setting; leave it out")
        if declared is not None and declared.is_required and name not in given and not of_any_content:
            raise CommandError(f"{option.flag}: {arguments.model} cannot do without; give one")
    try:
        declared_of = settings_of(request_class)
        given = {name: declared_of[name].parsed(name, value) for name, value in given.items()}
        steps = given.get("num_inference_steps")
        if arguments.preset is not None:
            given = preset_named(arguments.model, arguments.preset).beside(given)
        request = request_class.of_any_content(**given) if of_any_content else request_class(**given)
        if steps is not None:
            check_steps_agree(steps, request.num_inference_steps)
        return request
    except RequestError as error:
        raise refusal(error) from None


def files_read(arguments: argparse.Namespace) -> list[tuple[str, Path]]:
    """The files that a request is of, by the options that named them."""
    files = [option for option in options().values() if option.setting.metavar == "FILE"]
    named = [(option.flag, getattr(arguments, option.field)) for option in files]
    return [(flag, Path(file)) for flag, file in named if file is not None]


def mesh_of(text: str | None) -> MeshShape | None:
    """The mesh that `--mesh` says. Raises CommandError for what is none."""
    try:
        return None if text is None else parse_mesh(text)
    except RequestError as error:
        raise refusal(error) from None


def refusal(error: PipelineError) -> CommandError:
    """What a pipeline refuses, by the option that asked for it."""
    if isinstance(error, SaveError):
        return WorkFailed(f"--out: {error}")
    if not isinstance(error, RequestError):
        return CommandError(str(error))
    option = options().get(error.field)
    flag = "--" + error.field.replace("_", "-") if option is None else option.flag
    return CommandError(f"{flag}: {error.message}")
