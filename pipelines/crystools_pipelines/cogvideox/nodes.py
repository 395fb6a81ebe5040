"""CogVideoX's nodes."""

from __future__ import annotations

from typing import Any, ClassVar, Final, TypeAlias

from crystools_pipelines.cogvideox.request import CogVideoXRequest
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

EMBEDDINGS: Final = "COGVIDEOX_EMBEDDINGS"
LATENTS: Final = "COGVIDEOX_LATENTS"

Prompts: TypeAlias = tuple[Embeddings, Embeddings]

_CATEGORY: Final = "crystools-tpu/CogVideoX"


class CogVideoXTextEncoder(ModelNode):
    """A prompt and a negative one to embeddings."""

    PIPELINE = "cogvideox-t2v"
    CATEGORY = _CATEGORY
    DESCRIPTION = "Encodes a prompt, and what the video must not show, with T5 on the TPU."
    INPUTS: ClassVar = {
        "prompt": PROMPT,
        "negative_prompt": PROMPT,
        "model_id": model_id(MODELS["cogvideox-t2v"].hub_id),
    }
    FUNCTION = "encode"
    RETURN_TYPES: ClassVar = (EMBEDDINGS, TIMING)
    RETURN_NAMES: ClassVar = ("embeddings", "timing")

    @classmethod
    def VALIDATE_INPUTS(cls, model_id: str | None) -> bool | str:
        """The model must be somewhere."""
        return cls.verdict(dict, model_id=model_id)

    def encode(self, prompt: str, negative_prompt: str, model_id: str) -> tuple[Prompts, Timing]:
        """Both in one run, for the sampler decides whether it guides. They know the model from here on."""
        import numpy as np

        from crystools_pipelines.cogvideox.pipeline import encode_prompts, mesh_over, text_encoder

        checkpoint = checkpoint_at(model_id)
        prompts = {"prompt": prompt, "negative_prompt": negative_prompt}
        mesh = mesh_over(devices(), checkpoint, 2)
        with self.job(checkpoint, mesh, prompts, [text_encoder(mesh)]) as job:
            values = np.asarray(encode_prompts(job, [*prompts.values()]))
        first, second = (
            Embeddings(self.PIPELINE, checkpoint.location, text, values[[branch]])
            for branch, text in enumerate(prompts.values())
        )
        return (first, second), timing_of(job)


class CogVideoXTPUSampler(ModelNode):
    """Noise to latents."""

    PIPELINE = "cogvideox-t2v"
    CATEGORY = _CATEGORY
    DESCRIPTION = "Denoises a video's latents on the TPU, with the checkpoint's own scheduler."
    INPUTS: ClassVar = {
        "embeddings": (EMBEDDINGS, {}),
        "height": whole(720, 256, 1080, 8),
        "width": whole(1280, 256, 1920, 8),
        "num_frames": whole(81, 17, 161, 8),
        "num_inference_steps": STEPS,
        "guidance_scale": real(6.0, 1.0, 20.0, 0.1, "how closely to follow the prompt; 1: unguided, faster"),
        "seed": seed(42),
        "num_devices": NUM_DEVICES,
    }
    FUNCTION = "sample"
    RETURN_TYPES: ClassVar = (LATENTS, "STRING", TIMING)
    RETURN_NAMES: ClassVar = ("latents", "info", "timing")

    @classmethod
    def VALIDATE_INPUTS(cls, height: int | None, width: int | None, num_frames: int | None) -> bool | str:
        """The size must be one that the model can make."""
        given = {"height": height, "width": width, "num_frames": num_frames}
        return cls.verdict(lambda **size: CogVideoXRequest("", **size), **given)

    def sample(
        self, embeddings: Prompts, num_devices: int = 0, **settings: Any
    ) -> tuple[Latents, str, Timing]:
        """`info` is the table of stages. `settings` are the request's fields."""
        import numpy as np

        from crystools_pipelines.cogvideox.pipeline import denoise, mesh_over, prepare, transformer
        from crystools_pipelines.runtime.job import params_of
        from crystools_tpu.stage_table import stage_text

        prompt, negative_prompt = (each.prompt for each in embeddings)
        request = CogVideoXRequest(prompt, negative_prompt, **settings)
        checkpoint = checkpoint_at(embeddings[0].location)
        prepared = prepare(request, checkpoint)
        for each in embeddings:
            check_origin("embeddings", each, self.PIPELINE)
            check_width("embeddings", each, checkpoint.config("transformer")["text_embed_dim"])
        branches = np.concatenate([each.values for each in embeddings][: request.branches])
        mesh = mesh_over(devices(num_devices), checkpoint, request.branches)
        with self.job(checkpoint, mesh, params_of(request), [transformer(mesh)], request) as job:
            values = np.asarray(denoise(job, request, prepared, branches))[:, request.padding_frames :]
        size = (request.height, request.width, request.num_frames)
        latents = Latents(self.PIPELINE, checkpoint.location, values, *size)
        return latents, stage_text(job.run.report), timing_of(job)


class CogVideoXTPUVAEDecoder(ModelNode):
    """Latents to frames."""

    PIPELINE = "cogvideox-t2v"
    CATEGORY = _CATEGORY
    DESCRIPTION = "Decodes a video's latents on the TPU, two latent frames at a time."
    INPUTS: ClassVar = {"latents": (LATENTS, {}), "fps": FPS}
    FUNCTION = "decode"
    RETURN_TYPES: ClassVar = ("IMAGE", RATE, TIMING)
    RETURN_NAMES: ClassVar = ("frames", "fps", "timing")

    def decode(self, latents: Latents, fps: int) -> tuple[Any, int, Timing]:
        """`frames` float32 `[frames, height, width, 3]` in 0..1."""
        import torch

        from crystools_pipelines.cogvideox.pipeline import DECODER, check_vae, decode_latents, mesh_over

        check_origin("latents", latents, self.PIPELINE)
        checkpoint = checkpoint_at(latents.location)
        check_vae(checkpoint)
        mesh = mesh_over(devices(), checkpoint, 2)
        with self.job(checkpoint, mesh, latents.size, [DECODER]) as job:
            frames = decode_latents(job, latents.values, padding_frames=0)
        return torch.from_numpy(frames), fps, timing_of(job)


NODE_CLASS_MAPPINGS: Final = {
    "CogVideoXTextEncoder": CogVideoXTextEncoder,
    "CogVideoXTPUSampler": CogVideoXTPUSampler,
    "CogVideoXTPUVAEDecoder": CogVideoXTPUVAEDecoder,
}
NODE_DISPLAY_NAME_MAPPINGS: Final = {
    "CogVideoXTextEncoder": "CogVideoX Text Encoder (TPU)",
    "CogVideoXTPUSampler": "CogVideoX Sampler (TPU)",
    "CogVideoXTPUVAEDecoder": "CogVideoX VAE Decoder (TPU)",
}
