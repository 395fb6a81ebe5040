"""What a LoRA's file adds to the weights of a transformer, by diffusers' own converters.

Only its header is read, and the few numbers by which a converter decides (`deferred`): what is added is read
where it is merged.
"""

import json
import math
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import jax.numpy as jnp
import numpy as np
import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.loaders.lora_pipeline import (
    CogVideoXLoraLoaderMixin,
    Flux2LoraLoaderMixin,
    WanLoraLoaderMixin,
)
from diffusers.loaders.single_file_utils import (
    convert_flux2_transformer_checkpoint_to_diffusers,
    convert_wan_transformer_to_diffusers,
)
from diffusers.utils import convert_unet_state_dict_to_peft
from numpy.typing import NDArray

from crystools_pipelines.errors import CheckpointError, RequestError
from crystools_pipelines.requests.lora import TRANSFORMERS
from crystools_pipelines.weights.deferred import deferred, names_of, value_of
from crystools_pipelines.weights.stored import UNQUANTISED
from crystools_pipelines.weights.tensor_files import StoredTensor, read_header, read_metadata

Tensors: TypeAlias = dict[str, torch.Tensor]
Metadata: TypeAlias = Mapping[str, Any]

FIELD: Final = "loras"
"""The request's field that errors name."""

_ORIGINAL: Final = "diffusion_model."  # before the names of the model's authors, as ComfyUI has them
_WHOLE: Final[Mapping[str, str]] = {".diff": ".weight", ".diff_b": ".bias"}
"""How a key ends that holds all of what is added to a parameter, and how the parameter's name ends."""

_DORA: Final = r"dora_scale|lora_magnitude_vector"
_LOKR: Final = r"\.lokr_"

# What diffusers would leave out, or read as something else.
_REFUSED: Final[Mapping[str, str]] = {
    _DORA: "is a DoRA ({key}), of which diffusers would leave out a part; give a plain LoRA",
    r"\.hada_": "is a LoHa ({key}), which diffusers does not read; give a plain LoRA",
    r"\.oft_|\.boft_|\.glora_|\.lora_mid": "is of a kind ({key}) that diffusers does not read; "
    "give a plain LoRA",
    r"^(lora_te|text_encoder|text_encoders|te)\d*[._]": "has {key} for a text encoder, and diffusers "
    "merges into this model's transformer alone; give a LoRA without",
}

# What LoKr is given for the projections that diffusers fuses for it, and the parameters that they are of.
_FUSED: Final[Mapping[str, tuple[str, ...]]] = {
    "to_qkv": ("to_q", "to_k", "to_v"),
    "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj"),
}

_FACTOR: Final = re.compile(r"(?P<module>.+)\.(?P<factor>lora_[AB]\.weight|lora_B\.bias|lokr_w[12](_[ab])?)")

_CONVERTERS_FAULTS = (
    KeyError,
    ValueError,
    IndexError,
    TypeError,
    AttributeError,
    RuntimeError,
    AssertionError,
)

_PEFTS_DEFAULT: Final = 8  # of the rank and of alpha


@dataclass(frozen=True)
class Family:
    """How diffusers reads the LoRAs of a transformer. `whole` names its parameters as diffusers does."""

    mixin: Any
    whole: Callable[[Tensors], Tensors] = dict
    lokr: bool = False


FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(
    {
        "WanTransformer3DModel": Family(WanLoraLoaderMixin, convert_wan_transformer_to_diffusers),
        "CogVideoXTransformer3DModel": Family(CogVideoXLoraLoaderMixin),
        "Flux2Transformer2DModel": Family(
            Flux2LoraLoaderMixin, convert_flux2_transformer_checkpoint_to_diffusers, lokr=True
        ),
    }
)
"""By the class of the transformer."""


@dataclass(frozen=True)
class Delta:
    """What is added to a parameter at scale 1, not read yet. `key` is one of the file's, for errors."""

    key: str
    shape: tuple[int, ...]
    stamp: Hashable
    _make: Callable[[], torch.Tensor]

    def add_to(self, total: torch.Tensor, scale: float) -> None:
        """Adds it, so many times. Raises CheckpointError where the file cannot be read."""
        total.add_(self._make(), alpha=scale)


@dataclass(frozen=True)
class LoraFile:
    """A file with a LoRA of a model of this family; `name` is what the user calls it."""

    name: str
    path: Path
    family: Family

    def stamp(self) -> Hashable:
        """Changes when the file does. Raises RequestError where it is not there."""
        try:
            stat = self.path.stat()
        except OSError as error:
            raise self.refusal(f"cannot be read: {error.strerror}") from None
        return str(self.path), stat.st_size, stat.st_mtime_ns

    def refusal(self, why: str) -> RequestError:
        """An error that names this file."""
        return RequestError(FIELD, f"{self.name} {why}")

    @cached_property
    def deltas(self) -> Mapping[str, Mapping[str, tuple[Delta, ...]]]:
        """What it adds, by the component that its keys name, and by the parameter's name.

        Raises RequestError for what diffusers cannot read, or would not wholly heed.
        """
        try:
            header = read_header(self.path)
            metadata = json.loads(read_metadata(self.path).get(LORA_ADAPTER_METADATA_KEY) or "{}")
        except CheckpointError as error:
            raise RequestError(FIELD, str(error)) from None
        except ValueError:
            raise self.refusal(f"has no JSON in its {LORA_ADAPTER_METADATA_KEY}: fetch it again") from None
        self._check_kinds(header)
        if any(value for name, value in metadata.items() if name.endswith(".use_dora")):
            raise self.refusal(_REFUSED[_DORA].format(key=f"use_dora in {LORA_ADAPTER_METADATA_KEY}"))
        found: dict[str, dict[str, list[Delta]]] = {}
        for name, tensor in self._added(header, metadata):
            key = min(names_of(tensor), default=name)
            component, _, parameter = name.partition(".")
            if component not in TRANSFORMERS:
                raise self.unfit(key)
            delta = Delta(key, tuple(tensor.shape), (self.stamp(), key, name), partial(value_of, tensor))
            found.setdefault(component, {}).setdefault(parameter, []).append(delta)
        if not found:
            raise self.refusal("holds nothing that could be merged; give a LoRA")
        return {
            component: {parameter: tuple(deltas) for parameter, deltas in of_component.items()}
            for component, of_component in found.items()
        }

    def unfit(self, key: str) -> RequestError:
        """An error for a key that is of nothing in the model."""
        return self.refusal(f"has {key}, which fits no parameter of this model; give a LoRA made for it")

    def _check_kinds(self, header: Mapping[str, StoredTensor]) -> None:
        refused = dict(_REFUSED)
        if not self.family.lokr:
            refused[_LOKR] = (
                "is a LoKr ({key}), which diffusers does not read for this model; give a plain LoRA"
            )
        for pattern, why in refused.items():
            if key := next((key for key in header if re.search(pattern, key)), None):
                raise self.refusal(why.format(key=key))
        for key, stored in header.items():
            if not stored.is_floating and not key.endswith(".alpha"):
                raise self.refusal(
                    f"has {key} in {stored.dtype}; {UNQUANTISED.replace('checkpoint', 'LoRA')}"
                )

    def _added(
        self, header: Mapping[str, StoredTensor], metadata: Metadata
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """What is added, by the component's name and the parameter's."""
        looked_at: set[str] = set()
        state: Tensors = {
            key: deferred(key, stored.shape, partial(_read, stored), looked_at)
            for key, stored in header.items()
        }
        whole = {key: state.pop(key) for key in header if key.endswith(tuple(_WHOLE))}
        factors = self._converted(state) if state else {}
        used = looked_at.union(*map(names_of, factors.values()))
        if lost := [key for key in state if key not in used]:
            raise self.unfit(lost[0])
        yield from self._products(factors, metadata)
        yield from self._named(whole).items()

    def _converted(self, state: Tensors) -> Tensors:
        """The factors under the names that diffusers' adapters have for them."""
        try:
            converted: Tensors = self.family.mixin.lora_state_dict(dict(state))
            if not any("lora_A" in key or "lokr_" in key for key in converted):
                converted = convert_unet_state_dict_to_peft(converted)
        except CheckpointError as error:
            raise RequestError(FIELD, str(error)) from None
        except _CONVERTERS_FAULTS as error:
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise self.refusal(
                f"is in no form that diffusers reads for this model ({reason}); give a LoRA made for it"
            ) from error
        return converted

    def _named(self, whole: Tensors) -> Tensors:
        """What is added to whole parameters, under diffusers' names of these."""
        named: Tensors = {}
        originals: Tensors = {}
        for key, tensor in whole.items():
            module, dot, kind = key.rpartition(".")
            if module.startswith(_ORIGINAL):
                originals[module.removeprefix(_ORIGINAL) + _WHOLE[dot + kind]] = tensor
            else:
                named[module + _WHOLE[dot + kind]] = tensor
        try:
            converted = self.family.whole(originals)
        except _CONVERTERS_FAULTS as error:
            raise self.unfit(min(key for key in whole if key.startswith(_ORIGINAL))) from error
        return named | {f"{TRANSFORMERS[0]}.{name}": tensor for name, tensor in converted.items()}

    def _products(self, factors: Tensors, metadata: Metadata) -> Iterator[tuple[str, torch.Tensor]]:
        """What the factors make: of a LoRA and a LoKr the product, and the bias."""
        modules: dict[str, Tensors] = {}
        for name, tensor in factors.items():
            match = _FACTOR.fullmatch(name)
            if match is None:
                raise self.unfit(min(names_of(tensor), default=name))
            modules.setdefault(match["module"], {})[match["factor"]] = tensor
        for module, parts in modules.items():
            scaling = _scaling(module, parts, metadata)
            if (bias := parts.pop("lora_B.bias", None)) is not None:
                yield f"{module}.bias", _times(bias, scaling)
            if not parts:
                continue
            try:
                product = _kronecker(parts) if "lora_A.weight" not in parts else _product(parts)
            except (KeyError, RuntimeError, IndexError):
                key = min(name for part in parts.values() for name in names_of(part))
                raise self.refusal(f"has {key} without a factor that goes with it: fetch it again") from None
            owner, _, last = module.rpartition(".")
            names = [f"{owner}.{each}" for each in _FUSED[last]] if last in _FUSED else [module]
            for name, share in zip(names, torch.chunk(product, len(names)), strict=True):
                yield f"{name}.weight", _times(share, scaling)


def _read(stored: StoredTensor) -> torch.Tensor:
    return float32_of(stored.read_number())


def float32_of(array: NDArray[Any]) -> torch.Tensor:
    """A copy in float32, by torch: numpy takes four times as long for a bfloat16."""
    if array.dtype == jnp.bfloat16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16).to(torch.float32)
    return torch.from_numpy(array.astype(np.float32))


def _times(tensor: torch.Tensor, scaling: float) -> torch.Tensor:
    return tensor if scaling == 1 else tensor * scaling


def _product(parts: Tensors) -> torch.Tensor:
    """What a LoRA adds to a Linear or a convolution: its two factors, which have the rank in common."""
    down, up = parts["lora_A.weight"], parts["lora_B.weight"]
    return (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])


def _kronecker(parts: Tensors) -> torch.Tensor:
    """What a LoKr adds: the Kronecker product of two factors, each of which may be a product itself."""
    first, second = (
        parts[name] if name in parts else parts[f"{name}_a"] @ parts[f"{name}_b"]
        for name in ("lokr_w1", "lokr_w2")
    )
    return torch.kron(first, second)


def _scaling(module: str, parts: Tensors, metadata: Metadata) -> float:
    """What peft multiplies with, which is 1 unless the file says with which settings it was trained.

    The names of the modules in these are patterns, as peft has them.
    """
    component, _, name = module.partition(".")
    settings = {
        key.removeprefix(f"{component}."): value
        for key, value in metadata.items()
        if key.startswith(f"{component}.")
    }
    if not settings:
        return 1.0

    def setting(pattern_name: str, default_name: str) -> float:
        for pattern, value in (settings.get(pattern_name) or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", name):
                return float(value)
        return float(settings.get(default_name, _PEFTS_DEFAULT))

    is_lokr = any(part.startswith("lokr_") for part in parts)
    up = parts.get("lora_B.weight")
    rank = setting("rank_pattern", "r") if up is None else up.shape[1]
    alpha = setting("alpha_pattern", "alpha" if is_lokr else "lora_alpha")
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
