"""Wan2.2 text-to-video's nodes."""

from __future__ import annotations

from typing import ClassVar, Final

from crystools_pipelines.nodes.base import NUM_DEVICES, TIMING, model_id
from crystools_pipelines.requests.fields import node_inputs
from crystools_pipelines.wan.nodes import SIZE, WanDecoder, WanSampler, WanTextEncoder
from crystools_pipelines.wan.wan22_t2v.request import Wan22T2VRequest

EMBEDDINGS: Final = "WAN22_T2V_EMBEDDINGS"
LATENTS: Final = "WAN22_T2V_LATENTS"

_MODEL: Final = model_id("wan2.2-t2v")


class _Node:
    MODEL = "wan2.2-t2v"
    CATEGORY = "crystools-tpu/Wan2.2"


class Wan22T2VTextEncoder(_Node, WanTextEncoder):
    """A prompt and a negative one to embeddings."""

    INPUTS: ClassVar = {**WanTextEncoder.INPUTS, **_MODEL}
    RETURN_TYPES: ClassVar = (EMBEDDINGS, EMBEDDINGS, TIMING)


class Wan22T2VTPUSampler(_Node, WanSampler):
    """Noise to latents, by two transformers in turn."""

    DESCRIPTION = (
        "Denoises a video's latents on the TPU: one transformer for the noisy steps, one for the rest."
    )
    INPUTS: ClassVar = {
        "prompt_embeds": (EMBEDDINGS, {}),
        "negative_prompt_embeds": (EMBEDDINGS, {}),
        **node_inputs(
            Wan22T2VRequest,
            *(*SIZE, "num_inference_steps", "guidance_scale", "guidance_scale_2", "shift", "seed"),
        ),
        **_MODEL,
        **node_inputs(Wan22T2VRequest, "boundary_ratio"),
        "num_devices": NUM_DEVICES,
    }
    RETURN_TYPES: ClassVar = (LATENTS, "INT", TIMING)


class Wan22T2VTPUVAEDecoder(_Node, WanDecoder):
    """Latents to frames."""

    INPUTS: ClassVar = {"latents": (LATENTS, {}), **_MODEL, **WanDecoder.INPUTS}


NODE_CLASS_MAPPINGS: Final = {
    "Wan22T2VTextEncoder": Wan22T2VTextEncoder,
    "Wan22T2VTPUSampler": Wan22T2VTPUSampler,
    "Wan22T2VTPUVAEDecoder": Wan22T2VTPUVAEDecoder,
}
NODE_DISPLAY_NAME_MAPPINGS: Final = {
    "Wan22T2VTextEncoder": "Wan2.2 T2V Text Encoder (TPU)",
    "Wan22T2VTPUSampler": "Wan2.2 T2V Sampler (TPU)",
    "Wan22T2VTPUVAEDecoder": "Wan2.2 T2V VAE Decoder (TPU)",
}
