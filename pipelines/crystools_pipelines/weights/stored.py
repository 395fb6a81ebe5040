"""What is stored in a component's folder: its weight files by their index, and what is wrong with them."""

import json
import re
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from crystools_pipelines.errors import CheckpointError
from crystools_pipelines.weights.source import WeightSource
from crystools_pipelines.weights.tensor_files import StoredTensor, read_header

# The names that diffusers and transformers save under.
_STEMS = ("diffusion_pytorch_model", "model")

# Tensors beside a weight that say how it is quantised, by the last part of their names; and with what.
_QUANTISED = (
    (r"(nested_)?(absmax|quant_map)|quant_state\.bitsandbytes__\w+", "bitsandbytes, 4 bits"),
    (r"SCB|weight_format", "bitsandbytes, 8 bits"),
    (r"qweight|qzeros|scales|g_idx|wscales|smooth_factor", "GPTQ, AWQ or SVDQuant"),
    (r"weight_scale_2|weight_packed|weight_global_scale", "NVFP4 or another packed format"),
    (r"\w*(_scale|_scale_inv|_zero_point)|scale_\w+|scaled_fp8", "weights with scales beside them"),
)
UNQUANTISED = "give a checkpoint in bfloat16, float16 or float32"

_MOST_NAMED = 3


def index_of(names: Collection[str]) -> str | None:
    """The index of the weight files among the names in a component's folder, if they are several."""
    return next((index for stem in _STEMS if (index := f"{stem}.safetensors.index.json") in names), None)


def single_file(where: str | Path, names: Collection[str]) -> str:
    """The name of the file with the weights, among the names in a component's folder without an index.

    Raises CheckpointError where there is none.
    """
    for stem in _STEMS:
        if (name := f"{stem}.safetensors") in names:
            return name
    stems = " or ".join(_STEMS)
    raise CheckpointError(f"{where} holds no safetensors weights ({stems}.safetensors){_instead(names)}")


def shards_of(index: Path) -> list[str]:
    """The names of the files that an index says the tensors are in."""
    return sorted(set(_weight_map(index).values()))


@dataclass(frozen=True)
class StoredWeights:
    """The weights of a component, in the safetensors files of its folder."""

    folder: Path
    identity: Hashable

    def __str__(self) -> str:
        return str(self.folder)

    def stamp(self) -> Hashable:
        """Changes when a file of the component does. Raises CheckpointError where there are no weights."""
        files = [self.folder / "config.json", *self._files()]
        return tuple((str(file), stat.st_size, stat.st_mtime_ns) for file in files if (stat := file.stat()))

    @property
    def merged(self) -> None:
        """Nothing is added to them."""

    def tensors(self) -> dict[str, StoredTensor]:
        """Every tensor of the component, by name. Raises CheckpointError where a file is not whole."""
        headers = {path: read_header(path) for path in self._files()}
        tensors = {name: tensor for header in headers.values() for name, tensor in header.items()}
        index = index_of(self._names())
        for name, file in _weight_map(self.folder / index).items() if index else ():
            if name not in headers[self.folder / file]:
                raise CheckpointError(
                    f"{self.folder / file} lacks {name}, which {index} names: fetch it again"
                )
            tensors[name] = headers[self.folder / file][name]
        return tensors

    def _files(self) -> list[Path]:
        names = self._names()
        if (index := index_of(names)) is None:
            return [self.folder / single_file(self.folder, names)]
        files = [self.folder / name for name in shards_of(self.folder / index)]
        if missing := [file.name for file in files if not file.is_file()]:
            raise CheckpointError(
                f"{self.folder} lacks {first_few(missing)}, which {index} names: fetch it again"
            )
        return files

    def _names(self) -> list[str]:
        return [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []


def check_quantised(source: WeightSource, unused: Iterable[str]) -> None:
    """Raises CheckpointError where tensors without a use are the scales of the weights beside them."""
    for ending, how in _QUANTISED:
        if signs := [name for name in unused if re.fullmatch(rf"(.*[.:])?({ending})", name)]:
            raise CheckpointError(f"{source} is quantised ({how}: {first_few(signs)}); {UNQUANTISED}")


def check_all_used(source: WeightSource, unused: Sequence[str]) -> None:
    """Raises CheckpointError for tensors without a use."""
    if unused:
        raise CheckpointError(
            f"{source} holds {len(unused)} tensor(s) that would not be used: {first_few(unused)}; "
            "give a checkpoint that is what its config.json says"
        )


def first_few(items: Sequence[str], separator: str = ", ") -> str:
    """The first items, and how many more there are."""
    more = len(items) - _MOST_NAMED
    shown = separator.join(items[:_MOST_NAMED])
    return f"{shown}{separator}and {more} more" if more > 0 else shown


def _weight_map(index: Path) -> dict[str, str]:
    try:
        places: dict[str, str] = json.loads(index.read_bytes())["weight_map"]
        return {str(name): str(file) for name, file in places.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{index} is no index of weight files: fetch it again") from None


def _instead(names: Iterable[str]) -> str:
    """What is there instead of weights, and what would do."""
    kinds = (
        (r".*\.incomplete", "is half downloaded: fetch it again"),
        (r".*\.gguf", "is in GGUF; give a checkpoint in diffusers' own format"),
        (r".*\.(bin|pt|pth|ckpt)(\.index\.json)?", "is pickled; give a checkpoint in safetensors"),
        (r".*\.safetensors(\.index\.json)?", "is another variant; give a checkpoint with the plain one"),
    )
    for pattern, what in kinds:
        if found := sorted(name for name in names if re.fullmatch(pattern, name)):
            return f"; {found[0]} {what}"
    return ""
