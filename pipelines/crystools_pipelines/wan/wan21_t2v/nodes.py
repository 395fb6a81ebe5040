"""Wan2.1 text-to-video's nodes."""

from __future__ import annotations

from typing import ClassVar, Final

from crystools_pipelines.models import MODELS
from crystools_pipelines.nodes.base import NUM_DEVICES, STEPS, TIMING, model_id, real, seed, whole
from crystools_pipelines.wan.nodes import WanDecoder, WanSampler, WanTextEncoder

EMBEDDINGS: Final = "WAN21_EMBEDDINGS"
LATENTS: Final = "WAN21_LATENTS"

GUIDANCE: Final = real(5.0, 0.0, 20.0, 0.1, "how closely to follow the prompt; 1 and below: unguided, faster")
SIZE: Final = {"height": whole(720, 256, 1280, 16), "width": whole(1280, 256, 1280, 16)}
FRAMES: Final = whole(81, 17, 121, 4)

_MODEL: Final = {"model_id": model_id(MODELS["wan2.1-t2v"].hub_id)}


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
        **SIZE,
        "num_frames": FRAMES,
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "seed": seed(2025),
        **_MODEL,
        "flow_shift": real(5.0, 1.0, 10.0, 0.5, "of the schedule: 5 suits 720p, 3 suits 480p"),
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
