"""FLUX.2's nodes, each by the two ids that workflows use."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from crystools_pipelines.errors import RequestError
from crystools_pipelines.flux2.request import Flux2Request
from crystools_pipelines.models import MODELS
from crystools_pipelines.node_support import (
    NUM_DEVICES,
    PROMPT,
    STEPS,
    TIMING,
    Embeddings,
    Latents,
    ModelNode,
    Timing,
    check_origin,
    check_width,
    checkpoint_at,
    devices,
    model_id,
    real,
    seed,
    timing_of,
    whole,
)

EMBEDDINGS: Final = "FLUX2_EMBEDDINGS"
LATENTS: Final = "FLUX2_LATENTS"

_CATEGORY: Final = "crystools-tpu/FLUX.2"
_MODEL: Final = {"model_id": model_id(MODELS["flux.2"].hub_id)}
_SIZE: Final = {"height": whole(1024, 256, 2048, 16), "width": whole(1024, 256, 2048, 16)}


class FluxTPUTextEncoder(ModelNode):
    """A prompt to embeddings."""

    PIPELINE = "flux.2"
    CATEGORY = _CATEGORY
    DESCRIPTION = "Encodes a prompt with Mistral's language model on the TPU."
    INPUTS: ClassVar = {"prompt": PROMPT, **_MODEL}
    FUNCTION = "encode"
    RETURN_TYPES: ClassVar = (EMBEDDINGS, TIMING)
    RETURN_NAMES: ClassVar = ("prompt_embeds", "timing")

    @classmethod
    def VALIDATE_INPUTS(cls, model_id: str | None) -> bool | str:
        """The model must be somewhere."""
        return cls.verdict(dict, model_id=model_id)

    def encode(self, prompt: str, model_id: str) -> tuple[Embeddings, Timing]:
        """The prompt in the conversation that the model was trained with."""
        import numpy as np

        from crystools_pipelines.flux2.pipeline import encode_prompt, mesh_over, text_encoder

        checkpoint = checkpoint_at(model_id)
        mesh = mesh_over(devices(), checkpoint)
        with self.job(checkpoint, mesh, {"prompt": prompt}, [text_encoder(mesh)]) as job:
            values = np.asarray(encode_prompt(job, prompt))
        return Embeddings(self.PIPELINE, checkpoint.location, prompt, values), timing_of(job)


class FluxTPUSampler(ModelNode):
    """Noise to latents."""

    PIPELINE = "flux.2"
    CATEGORY = _CATEGORY
    DESCRIPTION = "Denoises an image's latents on the TPU; the schedule shifts with the image's size."
    INPUTS: ClassVar = {
        "prompt_embeds": (EMBEDDINGS, {}),
        **_SIZE,
        "num_inference_steps": STEPS,
        "guidance_scale": real(4.0, 0.0, 20.0, 0.1, "how closely to follow the prompt"),
        "seed": seed(42),
        **_MODEL,
        "num_devices": NUM_DEVICES,
    }
    FUNCTION = "sample"
    RETURN_TYPES: ClassVar = (LATENTS, TIMING)
    RETURN_NAMES: ClassVar = ("latents", "timing")

    @classmethod
    def VALIDATE_INPUTS(cls, height: int | None, width: int | None, model_id: str | None) -> bool | str:
        """The size must be one that the model can make."""
        given = {"height": height, "width": width, "model_id": model_id}
        return cls.verdict(lambda **size: Flux2Request("", **size), **given)

    def sample(
        self, prompt_embeds: Embeddings, model_id: str, num_devices: int = 0, **settings: Any
    ) -> tuple[Latents, Timing]:
        """`settings` are the request's fields."""
        import numpy as np

        from crystools_pipelines.flux2.pipeline import denoise, mesh_over, prepare, transformer
        from crystools_pipelines.runtime.job import params_of

        request = Flux2Request(prompt_embeds.prompt, **settings)
        checkpoint = checkpoint_at(model_id)
        scheduler = prepare(request, checkpoint)
        check_origin("prompt_embeds", prompt_embeds, self.PIPELINE)
        width = checkpoint.config("transformer")["joint_attention_dim"]
        check_width("prompt_embeds", prompt_embeds, width)
        mesh = mesh_over(devices(num_devices), checkpoint)
        with self.job(checkpoint, mesh, params_of(request), [transformer(mesh)], request) as job:
            values = np.asarray(denoise(job, request, scheduler, prompt_embeds.values))
        latents = Latents(self.PIPELINE, checkpoint.location, values, request.height, request.width)
        return latents, timing_of(job)


class FluxTPUVAEDecoder(ModelNode):
    """Latents to an image."""

    PIPELINE = "flux.2"
    CATEGORY = _CATEGORY
    DESCRIPTION = "Decodes an image's latents on the TPU; height and width are the sampler's."
    INPUTS: ClassVar = {"latents": (LATENTS, {}), **_SIZE, **_MODEL}
    FUNCTION = "decode"
    RETURN_TYPES: ClassVar = ("IMAGE", TIMING)
    RETURN_NAMES: ClassVar = ("image", "timing")

    @classmethod
    def VALIDATE_INPUTS(cls, height: int | None, width: int | None, model_id: str | None) -> bool | str:
        """The size must be one that the model can make."""
        given = {"height": height, "width": width, "model_id": model_id}
        return cls.verdict(lambda **size: Flux2Request("", **size), **given)

    def decode(self, latents: Latents, height: int, width: int, model_id: str) -> tuple[Any, Timing]:
        """`image` float32 `[1, height, width, 3]` in 0..1. Refuses latents of another size."""
        import torch

        from crystools_pipelines.flux2.pipeline import check_vae, decode_latents, decoder, mesh_over

        check_origin("latents", latents, self.PIPELINE)
        for name, size, made in (("height", height, latents.height), ("width", width, latents.width)):
            if size != made:
                raise RequestError(
                    name, f"{size} is not that of the latents; give {made}, as the sampler had it"
                )
        request = Flux2Request("", height, width)
        checkpoint = checkpoint_at(model_id)
        check_vae(checkpoint)
        mesh = mesh_over(devices(), checkpoint)
        with self.job(checkpoint, mesh, latents.size, [decoder(mesh)]) as job:
            image = decode_latents(job, request.grid, latents.values)
        return torch.from_numpy(image), timing_of(job)


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
