"""Wan2.1's nodes, and what Wan2.2's are made of."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from crystools_pipelines.models import MODELS
from crystools_pipelines.node_support import (
    FPS,
    NUM_DEVICES,
    PROMPT,
    RATE,
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
from crystools_pipelines.wan.request import Wan21Request, WanRequest

EMBEDDINGS: Final = "WAN21_EMBEDDINGS"
LATENTS: Final = "WAN21_LATENTS"

GUIDANCE: Final = real(5.0, 0.0, 20.0, 0.1, "how closely to follow the prompt; 1 and below: unguided, faster")
SIZE: Final = {"height": whole(720, 256, 1280, 16), "width": whole(1280, 256, 1280, 16)}
FRAMES: Final = whole(81, 17, 121, 4)

_MODEL: Final = {"model_id": model_id(MODELS["wan2.1-t2v"].hub_id)}


class Wan21TextEncoder(ModelNode):
    """A prompt and a negative one to embeddings."""

    PIPELINE = "wan2.1-t2v"
    CATEGORY = "crystools-tpu/Wan2.1"
    DESCRIPTION = "Encodes a prompt, and what the video must not show, with UMT5 on the TPU."
    INPUTS: ClassVar = {"prompt": PROMPT, "negative_prompt": PROMPT, **_MODEL}
    FUNCTION = "encode"
    RETURN_TYPES: ClassVar = (EMBEDDINGS, EMBEDDINGS, TIMING)
    RETURN_NAMES: ClassVar = ("prompt_embeds", "negative_prompt_embeds", "timing")

    @classmethod
    def VALIDATE_INPUTS(cls, model_id: str | None) -> bool | str:
        """The model must be somewhere."""
        return cls.verdict(dict, model_id=model_id)

    def encode(
        self, prompt: str, negative_prompt: str, model_id: str
    ) -> tuple[Embeddings, Embeddings, Timing]:
        """Both in one run, for the sampler decides whether it guides."""
        import numpy as np

        from crystools_pipelines.wan.stages import encode_prompts, mesh_over, text_encoder

        checkpoint = checkpoint_at(model_id)
        prompts = {"prompt": prompt, "negative_prompt": negative_prompt}
        mesh = mesh_over(self.PIPELINE, devices(), checkpoint, 2)
        with self.job(checkpoint, mesh, prompts, [text_encoder(mesh)]) as job:
            values = np.asarray(encode_prompts(job, [*prompts.values()]))
        first, second = (
            Embeddings(self.PIPELINE, checkpoint.location, text, values[[branch]])
            for branch, text in enumerate(prompts.values())
        )
        return first, second, timing_of(job)


class Wan21TPUSampler(ModelNode):
    """Noise to latents."""

    PIPELINE = "wan2.1-t2v"
    CATEGORY = "crystools-tpu/Wan2.1"
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
    FUNCTION = "sample"
    RETURN_TYPES: ClassVar = (LATENTS, "INT", TIMING)
    RETURN_NAMES: ClassVar = ("latents", "num_frames", "timing")

    @classmethod
    def VALIDATE_INPUTS(
        cls, height: int | None, width: int | None, num_frames: int | None, model_id: str | None
    ) -> bool | str:
        """The size must be one that the model can make."""
        given = {"height": height, "width": width, "num_frames": num_frames, "model_id": model_id}
        return cls.verdict(lambda **size: Wan21Request("", **size), **given)

    def sample(
        self,
        prompt_embeds: Embeddings,
        negative_prompt_embeds: Embeddings,
        model_id: str,
        num_devices: int = 0,
        **settings: Any,
    ) -> tuple[Latents, int, Timing]:
        """Without guidance the negative embeddings are not used. `settings` are the request's fields."""
        import numpy as np

        from crystools_pipelines.runtime.job import params_of
        from crystools_pipelines.wan.stages import Phase, denoise, mesh_over, transformer
        from crystools_pipelines.wan.t2v import prepare

        request = Wan21Request(prompt_embeds.prompt, negative_prompt_embeds.prompt, **settings)
        checkpoint = checkpoint_at(model_id)
        scheduler = prepare(request, checkpoint)
        width = checkpoint.config("transformer")["text_dim"]
        embeddings = guided(self.PIPELINE, request.branches, width, prompt_embeds, negative_prompt_embeds)
        mesh = mesh_over(self.PIPELINE, devices(num_devices), checkpoint, request.branches)
        phase = Phase("transformer", request.num_inference_steps, request.guidance_scale)
        parts = [transformer(mesh, phase.component)]
        with self.job(checkpoint, mesh, params_of(request), parts, request) as job:
            values = np.asarray(denoise(job, request, scheduler, [phase], embeddings))
        latents = latents_of(self.PIPELINE, checkpoint.location, values, request)
        return latents, request.num_frames, timing_of(job)


class Wan21TPUVAEDecoder(ModelNode):
    """Latents to frames."""

    PIPELINE = "wan2.1-t2v"
    CATEGORY = "crystools-tpu/Wan2.1"
    DESCRIPTION = "Decodes a video's latents on the TPU, a latent frame at a time."
    INPUTS: ClassVar = {"latents": (LATENTS, {}), **_MODEL, "fps": FPS}
    FUNCTION = "decode"
    RETURN_TYPES: ClassVar = ("IMAGE", RATE, TIMING)
    RETURN_NAMES: ClassVar = ("frames", "fps", "timing")

    @classmethod
    def VALIDATE_INPUTS(cls, model_id: str | None) -> bool | str:
        """The model must be somewhere."""
        return cls.verdict(dict, model_id=model_id)

    def decode(self, latents: Latents, model_id: str, fps: int) -> tuple[Any, int, Timing]:
        """`frames` float32 `[frames, height, width, 3]` in 0..1."""
        import torch

        from crystools_pipelines.wan.stages import DECODER, check_vae, decode_latents, mesh_over

        check_origin("latents", latents, self.PIPELINE)
        checkpoint = checkpoint_at(model_id)
        check_vae(self.PIPELINE, checkpoint)
        mesh = mesh_over(self.PIPELINE, devices(), checkpoint, 2)
        with self.job(checkpoint, mesh, latents.size, [DECODER]) as job:
            frames = decode_latents(job, latents.values)
        return torch.from_numpy(frames), fps, timing_of(job)


def guided(
    pipeline: str, branches: int, width: int, prompt_embeds: Embeddings, negative_prompt_embeds: Embeddings
) -> Any:
    """The embeddings `[branches, tokens, width]` of a sampler's guidance branches, the prompt's first."""
    import numpy as np

    named = {"prompt_embeds": prompt_embeds, "negative_prompt_embeds": negative_prompt_embeds}
    for name, embeddings in named.items():
        check_origin(name, embeddings, pipeline)
        check_width(name, embeddings, width)
    return np.concatenate([embeddings.values for embeddings in named.values()][:branches])


def latents_of(pipeline: str, location: str, values: Any, request: WanRequest) -> Latents:
    """A sampler's output, with the size that was asked for."""
    return Latents(pipeline, location, values, request.height, request.width, request.num_frames)


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
