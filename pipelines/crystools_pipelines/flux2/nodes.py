"""FLUX.2's nodes, each by the two ids that workflows use."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from crystools_pipelines.errors import RequestError
from crystools_pipelines.flux2.request import Flux2Request
from crystools_pipelines.nodes.base import NUM_DEVICES, TIMING, Timing, model_id
from crystools_pipelines.nodes.handed import Embeddings, Latents, check_origin
from crystools_pipelines.nodes.stages import DecoderNode, SamplerNode, TextEncoderNode
from crystools_pipelines.requests.fields import node_inputs
from crystools_tpu import telemetry

EMBEDDINGS: Final = "FLUX2_EMBEDDINGS"
LATENTS: Final = "FLUX2_LATENTS"

_MODEL: Final = model_id("flux.2")
_SIZE: Final = node_inputs(Flux2Request, "height", "width")


class _Node:
    MODEL = "flux.2"
    CATEGORY = "crystools-tpu/FLUX.2"


class FluxTPUTextEncoder(_Node, TextEncoderNode):
    """A prompt to embeddings."""

    DESCRIPTION = "Encodes a prompt with Mistral's language model on the TPU."
    INPUTS: ClassVar = {**node_inputs(Flux2Request, "prompt"), **_MODEL}
    RETURN_TYPES: ClassVar = (EMBEDDINGS, TIMING)
    RETURN_NAMES: ClassVar = ("prompt_embeds", "timing")

    def encode(self, prompt: str, model_id: str) -> tuple[Embeddings, Timing]:
        """The prompt in the conversation that the model was trained with."""
        (embeddings,), timing = self.encoded({"prompt": prompt}, model_id)
        return embeddings, timing


class FluxTPUSampler(_Node, SamplerNode):
    """Noise to latents."""

    DESCRIPTION = "Denoises an image's latents on the TPU; the schedule shifts with the image's size."
    INPUTS: ClassVar = {
        "prompt_embeds": (EMBEDDINGS, {}),
        **_SIZE,
        **node_inputs(Flux2Request, "num_inference_steps", "guidance_scale", "seed"),
        **_MODEL,
        "num_devices": NUM_DEVICES,
    }
    RETURN_TYPES: ClassVar = (LATENTS, TIMING)
    RETURN_NAMES: ClassVar = ("latents", "timing")

    def sample(
        self, prompt_embeds: Embeddings, model_id: str, num_devices: int = 0, **settings: Any
    ) -> tuple[Latents, Timing]:
        """`settings` are the request's fields."""
        named = [("prompt_embeds", prompt_embeds)]
        latents, report = self.sampled(named, model_id, num_devices, settings)
        return latents, telemetry.to_wire(report)


class FluxTPUVAEDecoder(_Node, DecoderNode):
    """Latents to an image."""

    DESCRIPTION = "Decodes an image's latents on the TPU; height and width are the sampler's."
    INPUTS: ClassVar = {"latents": (LATENTS, {}), **_SIZE, **_MODEL}
    RETURN_TYPES: ClassVar = ("IMAGE", TIMING)
    RETURN_NAMES: ClassVar = ("image", "timing")

    def decode(self, latents: Latents, height: int, width: int, model_id: str) -> tuple[Any, Timing]:
        """`image` float32 `[1, height, width, 3]` in 0..1. Refuses latents of another size."""
        check_origin("latents", latents, self.MODEL)
        for name, size in (("height", height), ("width", width)):
            if size != (made := getattr(latents.size, name)):
                raise RequestError(
                    name, f"{size} is not that of the latents; give {made}, as the sampler had it"
                )
        return self.decoded(latents, model_id)


NODE_CLASS_MAPPINGS: Final = {
    "FluxTPUTextEncoder": FluxTPUTextEncoder,
    "FluxTPUSampler": FluxTPUSampler,
    "FluxTPUVAEDecoder": FluxTPUVAEDecoder,
    "Flux2TextEncoder": FluxTPUTextEncoder,
    "Flux2TPUSampler": FluxTPUSampler,
    "Flux2TPUVAEDecoder": FluxTPUVAEDecoder,
}
NODE_DISPLAY_NAME_MAPPINGS: Final = {
    "FluxTPUTextEncoder": "FLUX.2 Text Encoder (TPU)",
    "FluxTPUSampler": "FLUX.2 Sampler (TPU)",
    "FluxTPUVAEDecoder": "FLUX.2 VAE Decoder (TPU)",
    "Flux2TextEncoder": "FLUX.2 Text Encoder (TPU, by its other name)",
    "Flux2TPUSampler": "FLUX.2 Sampler (TPU, by its other name)",
    "Flux2TPUVAEDecoder": "FLUX.2 VAE Decoder (TPU, by its other name)",
}
