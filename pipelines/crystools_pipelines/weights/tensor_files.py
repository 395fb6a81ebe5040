"""safetensors files, one tensor at a time by plain reads.

Not by `safetensors.safe_open`, which maps the file: what it has read of it stays in the process's memory
until the file is closed, so that loading a checkpoint would hold it twice.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from crystools_pipelines.errors import CheckpointError

# The dtypes of the format (https://huggingface.co/docs/safetensors) that weights come in.
_DTYPES: Mapping[str, Any] = MappingProxyType(
    {
        "F64": np.float64,
        "F32": np.float32,
        "F16": np.float16,
        "BF16": jnp.dtype("bfloat16"),
        "F8_E4M3": jnp.dtype("float8_e4m3fn"),
        "F8_E5M2": jnp.dtype("float8_e5m2"),
    }
)

# Those of numbers beside weights.
_WHOLE_NUMBERS: Mapping[str, Any] = MappingProxyType({"I64": np.int64, "I32": np.int32})

# What Git checks out where Git LFS is not installed.
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: what the header says of it. `offset_bytes` is from the start of the file."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset_bytes: int

    @property
    def is_floating(self) -> bool:
        """Whether it is of a dtype that can be read."""
        return self.dtype in _DTYPES

    @property
    def merged(self) -> None:
        """Nothing is added to it."""

    def read(self) -> NDArray[Any]:
        """The tensor. Raises CheckpointError for a dtype that is none of floating point."""
        if not self.is_floating:
            known = ", ".join(_DTYPES)
            raise CheckpointError(f"{self.path} holds a tensor in {self.dtype}; give one in {known}")
        return self._read_as(_DTYPES[self.dtype])

    def read_number(self) -> NDArray[Any]:
        """A tensor that may also be a whole number. Raises CheckpointError for any other."""
        dtype = _WHOLE_NUMBERS.get(self.dtype) if self.shape in ((), (1,)) else None
        return self.read() if dtype is None else self._read_as(dtype)

    def _read_as(self, dtype: Any) -> NDArray[Any]:
        tensor: NDArray[Any] = np.empty(self.shape, dtype)
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset_bytes)
            missing = tensor.reshape(-1).view(np.uint8).data
            while missing:
                if not (count := file.readinto(missing)):
                    raise CheckpointError(f"{self.path} ends before its last tensor: fetch it again")
                missing = missing[count:]
        return tensor


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of the file, by name; nothing of the tensors themselves is read.

    Raises CheckpointError for a file that is not whole, or is none of the format.
    """
    try:
        with path.open("rb") as file:
            size_bytes = path.stat().st_size
            start = file.read(8)
            header_bytes = int.from_bytes(start, "little")
            if start == _LFS_POINTER[:8]:
                raise CheckpointError(f"{path} is a pointer of Git LFS and no weights: run `git lfs pull`")
            if 0 < size_bytes < 8 + header_bytes:
                raise _cut_off(path)
            header: dict[str, Any] = json.loads(file.read(header_bytes))
            header.pop("__metadata__", None)
            tensors = {name: _stored(path, 8 + header_bytes, entry) for name, entry in header.items()}
            ends = [entry["data_offsets"][1] for entry in header.values()]
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: fetch it again") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError, IndexError):
        raise CheckpointError(f"{path} is no safetensors file: fetch it again") from None
    if 8 + header_bytes + max(ends, default=0) > size_bytes:
        raise _cut_off(path)
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """What else the header of a file says, of which `read_header` reads the tensors."""
    with path.open("rb") as file:
        header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    metadata = header.get("__metadata__")
    return metadata if isinstance(metadata, dict) else {}


def _stored(path: Path, first_byte: int, entry: dict[str, Any]) -> StoredTensor:
    return StoredTensor(path, entry["dtype"], tuple(entry["shape"]), first_byte + entry["data_offsets"][0])


def _cut_off(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} ends before its last tensor: it is half downloaded; fetch it again")
