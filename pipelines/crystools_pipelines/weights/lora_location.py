"""Where the file of a LoRA is: on this machine, or in a repository of the hub, of which it is fetched."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crystools_pipelines.errors import CheckpointError, RequestError
from crystools_pipelines.weights.hub import Repository, RepositoryFile
from crystools_pipelines.weights.location import is_hub_id
from crystools_pipelines.weights.lora import FIELD
from crystools_pipelines.weights.stored import first_few

_ENDING: Final = ".safetensors"
_USUAL: Final = "pytorch_lora_weights.safetensors"  # as diffusers saves it
_INSTEAD: Final = "give a file"


@dataclass(frozen=True)
class HubFile:
    """A file of a repository."""

    repository: Repository
    name: str

    @property
    def path(self) -> Path | None:
        """Where it is, None for as long as it is not downloaded."""
        return self.repository.cached(self.name)

    @property
    def missing(self) -> list[RepositoryFile]:
        """The file, if it is still to be downloaded."""
        return self.repository.missing([self.name])


def locate(location: str, repositories: dict[str, Repository]) -> Path | HubFile:
    """The file that the user calls so; `repositories` keeps those that were asked.

    Raises RequestError where there is none, or none that can be merged.
    """
    path = Path(location).expanduser()
    if path.is_dir():
        names = [each.name for each in path.iterdir() if each.is_file()]
        return path / _only_one(location, names)
    if path.is_file():
        _check_ending(location)
        return path
    owner, _, rest = location.partition("/")
    name, _, file = rest.partition("/")
    if not is_hub_id(f"{owner}/{name}") or (not file and name.endswith(_ENDING)):
        raise RequestError(FIELD, f"{location} is not there{_files_beside(path)}; {_INSTEAD}, or a hub id")
    repository = repositories.setdefault(
        f"{owner}/{name}", Repository(f"{owner}/{name}", index=None, instead=_INSTEAD)
    )
    try:
        files = repository.listing.files
    except CheckpointError as error:
        raise RequestError(FIELD, str(error)) from error
    if not file:
        return HubFile(repository, _only_one(location, files))
    _check_ending(location)
    if file not in files:
        here = first_few(sorted(each for each in files if each.endswith(_ENDING))) or f"no {_ENDING} file"
        why = "" if (reason := repository.listing.offline_reason) is None else f". {reason}"
        raise RequestError(FIELD, f"{repository.name} has no {file}; it has {here}{why}")
    return HubFile(repository, file)


def _only_one(location: str, names: Collection[str]) -> str:
    """The file among those of a folder or a repository that is meant where none is named."""
    found = sorted(name for name in names if name.endswith(_ENDING))
    if _USUAL in found:
        return _USUAL
    if len(found) == 1:
        return found[0]
    if not found:
        raise RequestError(FIELD, f"{location} has no {_ENDING} file; give a LoRA in safetensors")
    raise RequestError(FIELD, f"{location} has {len(found)} {_ENDING} files; name one: {', '.join(found)}")


def _check_ending(location: str) -> None:
    if not location.endswith(_ENDING):
        raise RequestError(FIELD, f"{location} is no {_ENDING} file; give a LoRA in safetensors")


def _files_beside(path: Path) -> str:
    """The files where one is missing, so that a mistyped name shows."""
    try:
        beside = sorted(each.name for each in path.parent.iterdir() if each.name.endswith(_ENDING))
    except OSError:
        return f", nor is the folder {path.parent}"
    return f"; the folder {path.parent} has {first_few(beside) or f'no {_ENDING} file'}"
