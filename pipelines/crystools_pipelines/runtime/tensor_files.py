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

from crystools_pipelines.runtime.errors import CheckpointError

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


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: what the header says of it. `offset_bytes` is from the start of the file."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset_bytes: int

    def read(self) -> NDArray[Any]:
        """The tensor. Raises CheckpointError for a dtype that is none of floating point."""
        if self.dtype not in _DTYPES:
            known = ", ".join(_DTYPES)
            raise CheckpointError(f"{self.path} holds a tensor in {self.dtype}; give one in {known}")
        tensor: NDArray[Any] = np.empty(self.shape, _DTYPES[self.dtype])
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset_bytes)
            missing = tensor.reshape(-1).view(np.uint8).data
            while missing:
                if not (count := file.readinto(missing)):
                    raise CheckpointError(f"{self.path} ends before its last tensor: fetch it again")
                missing = missing[count:]
        return tensor


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of the file, by name; nothing of the tensors themselves is read."""
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(header_bytes))
    header.pop("__metadata__", None)
    return {
        name: StoredTensor(
            path, entry["dtype"], tuple(entry["shape"]), 8 + header_bytes + entry["data_offsets"][0]
        )
        for name, entry in header.items()
    }
