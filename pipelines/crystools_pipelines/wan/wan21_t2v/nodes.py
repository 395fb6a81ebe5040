"""Wan2.1 text-to-video's nodes."""

from __future__ import annotations

from typing import ClassVar

from crystools_pipelines.nodes.base import node_mappings
from crystools_pipelines.wan.nodes import (
    EMBEDDINGS,
    SIZE,
    WanDecoder,
    WanPipeline,
    WanSampler,
    WanTextEncoder,
)


class _Node:
    MODEL = "wan2.1-t2v"
    NAME = "Wan2.1"
    CATEGORY = "crystools-tpu/Wan2.1"
    SOCKETS = "WAN21"


class Wan21TextEncoder(_Node, WanTextEncoder):
    """A prompt and a negative one to embeddings."""


class Wan21TPUSampler(_Node, WanSampler):
    """Noise to latents."""

    INPUT_NAMES: ClassVar = (
        *(*EMBEDDINGS, *SIZE, "num_inference_steps", "guidance_scale", "seed"),
        *("model_id", "flow_shift"),
    )


class Wan21TPUVAEDecoder(_Node, WanDecoder):
    """Latents to frames."""


class Wan21TPUPipeline(_Node, WanPipeline):
    """A prompt to frames."""

    OPTIONAL_NAMES: ClassVar = ("model_id", "fps", "flow_shift")


NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS = node_mappings(
    Wan21TextEncoder, Wan21TPUSampler, Wan21TPUVAEDecoder, Wan21TPUPipeline
)
