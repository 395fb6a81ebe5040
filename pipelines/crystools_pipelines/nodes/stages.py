"""The three nodes that every model has: prompts to embeddings, noise to latents, latents to frames.

A model's own node says which sockets and inputs it has; what it does is here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from crystools_pipelines.errors import RequestError
from crystools_pipelines.nodes.base import (
    ModelNode,
    Timing,
    checkpoint_at,
    devices,
    fields_of,
    timing_of,
)
from crystools_pipelines.nodes.handed import Embeddings, Latents, check_origin, check_width
from crystools_pipelines.requests.fields import settings_of
from crystools_pipelines.requests.lora import Lora
from crystools_tpu.telemetry import RunReport

LATER_FIELDS: Final = ("scheduler", "sigmas", "timesteps", "step_cache")
"""Fields that a request may have, and that no published workflow asks for."""


class TextEncoderNode(ModelNode):
    """Prompts to embeddings."""

    TITLE = "Text Encoder"
    FUNCTION = "encode"

    def encoded(self, prompts: Mapping[str, str], model_id: str) -> tuple[list[Embeddings], Timing]:
        """All prompts in one run, by the name of their input: the sampler decides whether it guides."""
        import numpy as np

        pipeline, checkpoint = self.pipeline(), checkpoint_at(model_id)
        mesh = pipeline.mesh(devices(), checkpoint)
        with self.job(checkpoint, mesh, prompts, [pipeline.text_encoder(mesh)]) as job:
            values = np.asarray(pipeline.encode(job, [*prompts.values()]))
        embeddings = [
            Embeddings(self.MODEL, checkpoint.location, prompt, values[[branch]])
            for branch, prompt in enumerate(prompts.values())
        ]
        return embeddings, timing_of(job)


class DenoisingNode(ModelNode):
    """A node that denoises: it takes LoRAs, and says how the steps are to be taken."""

    OPTIONAL_NAMES: ClassVar[Sequence[str]] = ()
    """Optional inputs of the model's own, before those that every such node has."""
    LATENT_FORMAT: ClassVar[str | None] = None
    """What ComfyUI calls the format of the latents, where it has one."""

    @classmethod
    def optional_names(cls) -> Sequence[str]:
        """Last what published workflows are without: a LoRA, and what the request has of LATER_FIELDS."""
        later = (name for name in LATER_FIELDS if name in settings_of(cls.request_class()))
        return *cls.OPTIONAL_NAMES, "num_devices", "lora", *later

    @classmethod
    def steps_of(cls, inputs: Mapping[str, Any]) -> int | None:
        """How many denoising steps these inputs ask for; None where they cannot be served."""
        names = ("num_inference_steps", "sigmas", "timesteps")
        kind, given = cls.request_class(), {name: inputs[name] for name in names if name in inputs}
        try:
            steps: int = kind.of_any_content(**fields_of(kind, given)).num_inference_steps
        except RequestError:
            return None
        return steps

    def request(self, *prompts: str, lora: Sequence[Lora] = (), **inputs: Any) -> Any:
        """What these inputs ask of the model."""
        kind = self.request_class()
        return kind(*prompts, loras=tuple(lora), **fields_of(kind, inputs))


class SamplerNode(DenoisingNode):
    """Noise to latents."""

    TITLE = "Sampler"
    FUNCTION = "sample"

    def sampled(
        self,
        embeddings: Sequence[tuple[str, Embeddings]],
        model_id: str,
        num_devices: int,
        settings: Mapping[str, Any],
        condition: Any = None,
    ) -> tuple[Latents, RunReport]:
        """The latents and the run's report.

        `embeddings` are the prompt's, then the negative prompt's, each with its input; without guidance
        these are not used. `settings` are `lora` and the request's fields.
        """
        import numpy as np

        from crystools_pipelines.runtime.job import params_of

        request = self.request(*(each.prompt for _, each in embeddings), **settings)
        pipeline, checkpoint = self.pipeline(), checkpoint_at(model_id, request.loras)
        prepared = pipeline.prepare(request, checkpoint)
        for name, each in embeddings:
            check_origin(name, each, self.MODEL)
            check_width(name, each, pipeline.embedding_width(checkpoint))
        checkpoint = checkpoint.with_loras(request.loras)
        branches = np.concatenate([each.values for _, each in embeddings][: request.branches])
        mesh = pipeline.mesh(devices(num_devices), checkpoint, request.branches)
        parts = pipeline.denoisers(mesh, prepared)
        with self.job(checkpoint, mesh, params_of(request), parts, request) as job:
            if condition is None:
                condition = pipeline.condition(job, request, prepared)
            values = np.asarray(pipeline.denoise(job, request, prepared, branches, condition))
        values = pipeline.without_padding(request, values)
        return Latents(self.MODEL, checkpoint.location, values, request.size), job.run.report


class DecoderNode(ModelNode):
    """Latents to frames."""

    TITLE = "VAE Decoder"
    FUNCTION = "decode"

    def decoded(self, latents: Latents, model_id: str) -> tuple[Any, Timing]:
        """Frames, a float32 tensor `[frames, height, width, 3]` in 0..1."""
        import torch

        check_origin("latents", latents, self.MODEL)
        pipeline, checkpoint = self.pipeline(), checkpoint_at(model_id)
        pipeline.check_vae(checkpoint)
        mesh = pipeline.mesh(devices(), checkpoint)
        with self.job(checkpoint, mesh, latents.size._asdict(), [pipeline.decoder(mesh)]) as job:
            frames = pipeline.decode(job, latents.values, latents.size)
        return torch.from_numpy(frames), timing_of(job)
