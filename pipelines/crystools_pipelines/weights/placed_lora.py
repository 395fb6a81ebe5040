"""LoRAs as they are asked for of a checkpoint: which file, and what of it goes into which component."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from crystools_pipelines.errors import RequestError
from crystools_pipelines.requests.lora import EXPERTS, TRANSFORMERS, Lora, check_expert
from crystools_pipelines.weights.hub import Repository, RepositoryFile
from crystools_pipelines.weights.lora import FAMILIES, FIELD, Family, LoraFile
from crystools_pipelines.weights.lora_location import HubFile, locate
from crystools_pipelines.weights.merged import Merge


@dataclass(frozen=True)
class PlacedLora:
    """A LoRA for a checkpoint with these transformers."""

    lora: Lora
    transformers: tuple[str, ...]
    family: Family
    place: Path | HubFile

    @property
    def repository(self) -> Repository | None:
        """The repository of the hub that it is from, None for a file of this machine."""
        return self.place.repository if isinstance(self.place, HubFile) else None

    def missing(self, components: Iterable[str]) -> list[RepositoryFile]:
        """The file, if something of it may go into one of these components and it is to be downloaded."""
        if isinstance(self.place, Path) or set(self._asked).isdisjoint(components):
            return []
        return self.place.missing

    @property
    def path(self) -> Path | None:
        """Where the file is, None for as long as it is to be downloaded."""
        return self.place if isinstance(self.place, Path) else self.place.path

    @property
    def _asked(self) -> tuple[str, ...]:
        """The components that it is asked for."""
        return self.transformers if self.lora.expert is None else (EXPERTS[self.lora.expert],)

    def merges(self, component: str) -> list[Merge]:
        """What of it is merged into the component. Raises RequestError for what cannot be."""
        if component not in self._asked:
            return []
        section = self._section(component)
        is_merged = self.lora.scale != 0 and section in self._file.deltas
        return [Merge(self._file, section, self.lora.scale)] if is_merged else []

    @cached_property
    def _file(self) -> LoraFile:
        if self.path is None:
            raise RequestError(FIELD, f"{self.lora.location} is not downloaded; ask again, or give a file")
        return LoraFile(self.lora.location, self.path, self.family)

    def _section(self, component: str) -> str:
        """Whose keys of the file go into the component: where it names experts itself, their own."""
        file = self._file
        if TRANSFORMERS[1] not in file.deltas:
            return TRANSFORMERS[0]
        if len(self.transformers) == 1:
            raise file.refusal(
                f"has weights for {TRANSFORMERS[1]}, and this checkpoint has one transformer; "
                "give a LoRA made for this model"
            )
        if self.lora.expert is not None:
            raise file.refusal(f"says itself what is for which expert; leave {self.lora.expert}: out")
        return component


def placed(
    loras: Sequence[Lora], config: Mapping[str, Any], transformers: tuple[str, ...]
) -> tuple[PlacedLora, ...]:
    """The LoRAs, for transformers of which one has this configuration; what is here of them is looked at.

    Raises RequestError for one that is not there, or that cannot be merged.
    """
    family = FAMILIES.get(config.get("_class_name", ""))
    if family is None:
        raise RequestError(FIELD, f"there are none for a {config.get('_class_name')}; leave them out")
    repositories: dict[str, Repository] = {}
    found = []
    for lora in loras:
        check_expert(FIELD, lora, transformers)
        each = PlacedLora(lora, transformers, family, locate(lora.location, repositories))
        if each.path is not None:
            for component in transformers:
                each.merges(component)
        found.append(each)
    return tuple(found)
