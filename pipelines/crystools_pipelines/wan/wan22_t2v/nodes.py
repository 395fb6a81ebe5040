"""Wan2.2 text-to-video's nodes."""

from __future__ import annotations

from typing import ClassVar

from crystools_pipelines.nodes.base import node_mappings
from crystools_pipelines.wan.nodes import (
    EMBEDDINGS,
    SIZE,
    ExpertsSampler,
    WanDecoder,
    WanPipeline,
    WanTextEncoder,
)


class _Node:
    MODEL = "wan2.2-t2v"
    NAME = "Wan2.2 T2V"
    CATEGORY = "crystools-tpu/Wan2.2"
    SOCKETS = "WAN22_T2V"


class Wan22T2VTextEncoder(_Node, WanTextEncoder):
    """A prompt and a negative one to embeddings."""


class Wan22T2VTPUSampler(_Node, ExpertsSampler):
    """Noise to latents, by two transformers in turn."""

    INPUT_NAMES: ClassVar = (
        *(*EMBEDDINGS, *SIZE, "num_inference_steps", "guidance_scale", "guidance_scale_2", "shift", "seed"),
        *("model_id", "boundary_ratio"),
    )


class Wan22T2VTPUVAEDecoder(_Node, WanDecoder):
    """Latents to frames."""


class Wan22T2VTPUPipeline(_Node, WanPipeline):
    """A prompt to frames, by two transformers in turn."""

    OPTIONAL_NAMES: ClassVar = ("model_id", "fps", "guidance_scale_2", "shift", "boundary_ratio")


NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS = node_mappings(
    Wan22T2VTextEncoder, Wan22T2VTPUSampler, Wan22T2VTPUVAEDecoder, Wan22T2VTPUPipeline
)
