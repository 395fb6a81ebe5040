"""The embeddings and latents that one node of a model hands to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crystools_pipelines.errors import RequestError
from crystools_pipelines.requests.request import Size

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Embeddings:
    """A prompt as a text encoder sees it: `values` `[1, tokens, width]`, on the host in the encoder's dtype.

    On the host they outlive Unload Models, and go to any number of devices. `location` is the checkpoint's.
    """

    model: str
    location: str
    prompt: str
    values: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Latents:
    """A sampler's latents, float32 on the host as the model's own decoder takes it."""

    model: str
    location: str
    values: NDArray[Any]
    size: Size


def check_origin(name: str, handed: Embeddings | Latents, model: str) -> None:
    """Raises RequestError for what a node of another model has made."""
    if handed.model != model:
        raise RequestError(name, f"these are of {handed.model}; connect those of {model}")


def check_width(name: str, embeddings: Embeddings, width: int) -> None:
    """Raises RequestError for embeddings that are not as wide as the transformer takes them."""
    found = embeddings.values.shape[-1]
    if found != width:
        raise RequestError(
            name,
            f"those of {embeddings.location} have width {found}, the transformer takes {width}; "
            "give the text encoder the sampler's model_id",
        )
