"""FLUX.2's nodes: its stages each by the two ids that workflows use, and all of it as one."""

from __future__ import annotations

from typing import Any, ClassVar

from crystools_pipelines.errors import RequestError
from crystools_pipelines.nodes.base import Timing, node_mappings
from crystools_pipelines.nodes.handed import Embeddings, Latents, check_origin
from crystools_pipelines.nodes.stages import DecoderNode, SamplerNode, TextEncoderNode
from crystools_pipelines.nodes.whole import PipelineNode
from crystools_pipelines.requests.fields import Input
from crystools_tpu import telemetry


class _Node:
    MODEL = "flux.2"
    NAME = "FLUX.2"
    CATEGORY = "crystools-tpu/FLUX.2"
    SOCKETS = "FLUX2"


class FluxTPUTextEncoder(_Node, TextEncoderNode):
    """A prompt to embeddings."""

    DESCRIPTION = "Encodes a prompt with Mistral's language model on the TPU."
    INPUT_NAMES: ClassVar = ("prompt", "model_id")
    RETURN_NAMES: ClassVar = ("prompt_embeds", "timing")

    def encode(self, prompt: str, model_id: str) -> tuple[Embeddings, Timing]:
        """The prompt in the conversation that the model was trained with."""
        (embeddings,), timing = self.encoded({"prompt": prompt}, model_id)
        return embeddings, timing


class FluxTPUSampler(_Node, SamplerNode):
    """Noise to latents."""

    DESCRIPTION = "Denoises an image's latents on the TPU; the schedule shifts with the image's size."
    INPUT_NAMES: ClassVar = (
        *("prompt_embeds", "height", "width", "num_inference_steps", "guidance_scale", "seed"),
        "model_id",
    )
    RETURN_NAMES: ClassVar = ("latents", "timing")
    LATENT_FORMAT = "Flux2"

    def sample(
        self, prompt_embeds: Embeddings, model_id: str, num_devices: int = 0, **settings: Any
    ) -> tuple[Latents, Timing]:
        """`settings` are the request's fields."""
        embeddings = [("prompt_embeds", prompt_embeds)]
        latents, report = self.sampled(embeddings, model_id, num_devices, settings)
        return latents, telemetry.to_wire(report)


class FluxTPUVAEDecoder(_Node, DecoderNode):
    """Latents to an image."""

    DESCRIPTION = "Decodes an image's latents on the TPU; height and width are the sampler's."
    INPUT_NAMES: ClassVar = ("latents", "height", "width", "model_id")
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


class Flux2TPUPipeline(_Node, PipelineNode):
    """A prompt to an image."""

    DESCRIPTION = "All of it in one run on the TPU: from the prompt to the image."
    INPUT_NAMES: ClassVar = ("prompt", "height", "width", "num_inference_steps", "guidance_scale", "seed")
    RETURN_NAMES: ClassVar = ("image", "timing")
    LATENT_FORMAT = FluxTPUSampler.LATENT_FORMAT

    @classmethod
    def _input(cls, name: str) -> Input:
        """Its widgets go in larger steps than the sampler's."""
        type_, about = super()._input(name)
        return (type_, {**about, "step": 64}) if name in ("height", "width") else (type_, about)

    def generate(self, **inputs: Any) -> tuple[Any, Timing]:
        """`image` float32 `[1, height, width, 3]` in 0..1."""
        return self.generated(**inputs)


_CLASSES, _TITLES = node_mappings(FluxTPUTextEncoder, FluxTPUSampler, FluxTPUVAEDecoder, Flux2TPUPipeline)
_ALIASES = {
    "Flux2TextEncoder": FluxTPUTextEncoder,
    "Flux2TPUSampler": FluxTPUSampler,
    "Flux2TPUVAEDecoder": FluxTPUVAEDecoder,
}

NODE_CLASS_MAPPINGS = {**_CLASSES, **_ALIASES}
NODE_DISPLAY_NAME_MAPPINGS = {
    **_TITLES,
    **{id_: _TITLES[node.__name__].replace(")", ", by its other name)") for id_, node in _ALIASES.items()},
}
