"""A component in the devices' memory: its module, its programs, and the weights that they run with."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from crystools_pipelines.runtime.programs import Programs
from crystools_pipelines.weights.loading import State

Module = TypeVar("Module")


@dataclass(frozen=True, eq=False)
class Component(Generic[Module]):
    """What a stage works with. The programs stay for the next run, and leave with the weights."""

    module: Module
    programs: Programs
    weights: State

    def free(self) -> None:
        """Gives the weights' memory back at once, even where a traceback or a cache still holds an array."""
        self.programs.clear()
        for array in self.weights.values():
            array.delete()
