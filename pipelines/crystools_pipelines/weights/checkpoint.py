"""Where a diffusers checkpoint is: a folder, or a repository of the Hugging Face hub, fetched in parts."""

import copy
import inspect
import json
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import diffusers
from transformers import CONFIG_MAPPING, AutoTokenizer, PreTrainedTokenizerBase

from crystools_pipelines.errors import CheckpointError, RequestError
from crystools_pipelines.requests.lora import TRANSFORMERS, Lora
from crystools_pipelines.weights.hub import Repository, RepositoryFile, check_room
from crystools_pipelines.weights.location import folders_beside, is_hub_id
from crystools_pipelines.weights.source import WeightSource
from crystools_pipelines.weights.stored import StoredWeights, index_of, shards_of, single_file

if TYPE_CHECKING:
    from crystools_pipelines.weights.placed_lora import PlacedLora

TOKENIZER = "tokenizer"


class Checkpoint:
    """A checkpoint in diffusers' format: one subfolder a component. Of a repository the hub is asked once.

    `news` is what the user should know of how it came to be there. Raises RequestError where `location` is
    neither a folder nor a hub id.
    """

    def __init__(self, location: str | Path, news: str | None = None) -> None:
        self.location = str(location)
        self.news = news
        self._configs: dict[tuple[str, str], dict[str, Any]] = {}
        self._loras: tuple[PlacedLora, ...] = ()
        self._source: Path | Repository
        if self.location and Path(location).is_dir():
            self._source = Path(location)
        elif is_hub_id(self.location):
            self._source = Repository(self.location)
        else:
            raise RequestError(
                "checkpoint",
                f"{self.location!r} is no folder; give one, or a hub id of the form org/name"
                f"{folders_beside(self.location)}",
            )

    def index(self) -> dict[str, Any]:
        """The whole pipeline's configuration, `model_index.json`."""
        return self._read("model_index.json")

    @property
    def has_index(self) -> bool:
        """Whether there is a `model_index.json`."""
        return (self._small_files(["model_index.json"]) / "model_index.json").is_file()

    def config(self, component: str, file: str = "config.json") -> dict[str, Any]:
        """The component's configuration: what stands in its file, and its class's defaults."""
        if (component, file) not in self._configs:
            self._check_folder(self._small_files([f"{component}/{file}"]) / component)
            config = self._read(f"{component}/{file}")
            self._configs[component, file] = _filled(config, _defaults(config))
        return self._configs[component, file]

    def folder(self, component: str) -> Path:
        """The component's folder. Of a repository it is there once the component was fetched."""
        return self._small_files([]) / component

    def with_loras(self, loras: Sequence[Lora]) -> Self:
        """The same checkpoint, with these LoRAs merged into what `weights` gives.

        Raises RequestError for one that is not there, or that cannot be merged as far as that shows: of one
        that is still to be downloaded, and of whether it fits, `weights` does.
        """
        merging = copy.copy(self)
        if loras:
            from crystools_pipelines.weights.placed_lora import placed  # diffusers' loaders take a second

            merging._loras = placed(loras, self.config("transformer"), self._transformers())
        return merging

    def weights(self, component: str) -> WeightSource:
        """Where the component's weights come from. Raises RequestError for a LoRA that cannot be merged."""
        stored = StoredWeights(self.folder(component), (self.location, component))
        merges = tuple(merge for lora in self._loras for merge in lora.merges(component))
        if not merges:
            return stored
        from crystools_pipelines.weights.merged import MergedWeights

        return MergedWeights(stored, merges)

    def _transformers(self) -> tuple[str, ...]:
        """The components that are transformers, one or two."""
        if not self.has_index:
            return TRANSFORMERS[:1]
        index = self.index()
        return tuple(name for name in TRANSFORMERS if index.get(name) not in (None, [None, None]))

    def configurations(self) -> Path:
        """The folder in which the configurations of all components are."""
        if isinstance(self._source, Path):
            return self._source
        wanted = ("config.json", "scheduler_config.json")
        names = [
            name for name in self._source.listing.files if name.count("/") == 1 and name.endswith(wanted)
        ]
        return self._small_files(["model_index.json", *names])

    def missing(self, components: Iterable[str], *, tokenizer: bool) -> list[RepositoryFile]:
        """The files of these components, the tokenizer and the LoRAs that are still to be downloaded."""
        of_loras = [file for lora in self._loras for file in lora.missing(components)]
        return self._missing(components, tokenizer=tokenizer) + list(dict.fromkeys(of_loras))

    def _missing(self, components: Iterable[str], *, tokenizer: bool) -> list[RepositoryFile]:
        if isinstance(self._source, Path):
            return []
        names = self._source.listing.files
        wanted = [name for component in components for name in self._weight_files(names, component)]
        if tokenizer:
            wanted += [name for name in names if name.startswith(f"{TOKENIZER}/")]
        return self._source.missing(wanted)

    def download(self, files: Iterable[RepositoryFile], progressed: Callable[[int], None]) -> None:
        """Downloads these files; `progressed` hears now and then how many of their bytes are there.

        Raises CheckpointError where they cannot be had, and before anything is downloaded where there is no
        room for them.
        """
        files, done = list(files), 0
        check_room(files)
        for repository in self._repositories():
            if own := [file for file in files if file.repository == repository.name]:
                repository.download(own, _beginning_with(done, progressed))
                done += sum(file.size_bytes or 0 for file in own)

    def _repositories(self) -> list[Repository]:
        """Those that something of it is from: its own, and those of LoRAs."""
        own = [self._source] if isinstance(self._source, Repository) else []
        others = [lora.repository for lora in self._loras if lora.repository is not None]
        return [*{repository.name: repository for repository in [*others, *own]}.values()]

    @property
    def offline_reason(self) -> str | None:
        """Why the hub could not be asked, where only what is in its cache is known."""
        return None if isinstance(self._source, Path) else self._source.listing.offline_reason

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's own. Raises CheckpointError where there is none that can be read."""
        folder = self.folder(TOKENIZER)
        self._check_folder(folder)
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            raise CheckpointError(
                f"{folder} cannot be read as a tokenizer ({reason}): fetch it again"
            ) from error
        vocabularies = list(tokenizer.vocab_files_names.values())
        if vocabularies and not any((folder / name).is_file() for name in vocabularies):
            raise CheckpointError(f"{folder} lacks {' or '.join(vocabularies)}: fetch it again")
        return tokenizer

    def _weight_files(self, names: Iterable[str], component: str) -> list[str]:
        """Which of the repository's files hold the component's weights."""
        inside = [name.rpartition("/")[2] for name in names if name.startswith(f"{component}/")]
        if (index := index_of(inside)) is None:
            return [f"{component}/{single_file(f'{self.location}/{component}', inside)}"]
        path = self._small_files([f"{component}/{index}"]) / component / index
        return [f"{component}/{name}" for name in shards_of(path)]

    def _read(self, name: str) -> dict[str, Any]:
        file = self._small_files([name]) / name
        try:
            content: Any = json.loads(file.read_bytes())
        except FileNotFoundError:
            raise CheckpointError(f"{self.location} has no {name}: it is not in diffusers' format") from None
        except ValueError:
            raise CheckpointError(f"{file} is not JSON: fetch it again") from None
        if not isinstance(content, dict):
            raise CheckpointError(f"{file} is not a JSON object: fetch it again")
        return content

    def _check_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            raise CheckpointError(
                f"{self.location} has no folder {folder.name!r}: it is not in diffusers' format"
            )

    def _small_files(self, names: list[str]) -> Path:
        """The folder that holds, or would, these files."""
        if isinstance(self._source, Path):
            return self._source
        self._source.fetch(names)
        return self._source.root


def _beginning_with(done: int, progressed: Callable[[int], None]) -> Callable[[int], None]:
    """Hears of a part of a download, of which so many bytes came before that part."""
    return lambda count_bytes: progressed(done + count_bytes)


def _filled(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The configuration, with defaults for what it leaves out, also within its own mappings."""
    within = {
        name: _filled(value, defaults[name])
        for name, value in config.items()
        if isinstance(value, dict) and isinstance(defaults.get(name), dict)
    }
    return defaults | config | within


def _defaults(config: dict[str, Any]) -> dict[str, Any]:
    """What a class of diffusers or transformers takes for what a file leaves out."""
    class_name, model_type = config.get("_class_name"), config.get("model_type")
    if isinstance(model_type, str) and model_type in CONFIG_MAPPING:
        return CONFIG_MAPPING[model_type]().to_dict()  # type: ignore[no-any-return]
    if not isinstance(class_name, str) or not hasattr(diffusers, class_name):
        return {}
    parameters = inspect.signature(getattr(diffusers, class_name).__init__).parameters
    return {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
