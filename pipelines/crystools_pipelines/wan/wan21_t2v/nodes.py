"""Wan2.1 text-to-video's nodes."""

from __future__ import annotations

from typing import ClassVar, Final

from crystools_pipelines.nodes.base import NUM_DEVICES, TIMING, model_id
from crystools_pipelines.requests.fields import node_inputs
from crystools_pipelines.wan.nodes import SIZE, WanDecoder, WanSampler, WanTextEncoder
from crystools_pipelines.wan.wan21_t2v.request import Wan21Request

EMBEDDINGS: Final = "WAN21_EMBEDDINGS"
LATENTS: Final = "WAN21_LATENTS"

_MODEL: Final = model_id("wan2.1-t2v")


class _Node:
    MODEL = "wan2.1-t2v"
    CATEGORY = "crystools-tpu/Wan2.1"


class Wan21TextEncoder(_Node, WanTextEncoder):
    """A prompt and a negative one to embeddings."""

    INPUTS: ClassVar = {**WanTextEncoder.INPUTS, **_MODEL}
    RETURN_TYPES: ClassVar = (EMBEDDINGS, EMBEDDINGS, TIMING)


class Wan21TPUSampler(_Node, WanSampler):
    """Noise to latents."""

    DESCRIPTION = "Denoises a video's latents on the TPU, with the checkpoint's own scheduler."
    INPUTS: ClassVar = {
        "prompt_embeds": (EMBEDDINGS, {}),
        "negative_prompt_embeds": (EMBEDDINGS, {}),
        **node_inputs(Wan21Request, *SIZE, "num_inference_steps", "guidance_scale", "seed"),
        **_MODEL,
        **node_inputs(Wan21Request, "flow_shift"),
        "num_devices": NUM_DEVICES,
    }
    RETURN_TYPES: ClassVar = (LATENTS, "INT", TIMING)


class Wan21TPUVAEDecoder(_Node, WanDecoder):
    """Latents to frames."""

    INPUTS: ClassVar = {"latents": (LATENTS, {}), **_MODEL, **WanDecoder.INPUTS}


NODE_CLASS_MAPPINGS: Final = {
    "Wan21TextEncoder": Wan21TextEncoder,
    "Wan21TPUSampler": Wan21TPUSampler,
    "Wan21TPUVAEDecoder": Wan21TPUVAEDecoder,
}
NODE_DISPLAY_NAME_MAPPINGS: Final = {
    "Wan21TextEncoder": "Wan2.1 Text Encoder (TPU)",
    "Wan21TPUSampler": "Wan2.1 Sampler (TPU)",
    "Wan21TPUVAEDecoder": "Wan2.1 VAE Decoder (TPU)",
}
