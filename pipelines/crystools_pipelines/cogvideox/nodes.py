"""CogVideoX's nodes."""

from __future__ import annotations

from typing import Any, ClassVar, TypeAlias

from crystools_pipelines.nodes.base import Timing, node_mappings
from crystools_pipelines.nodes.handed import Embeddings, Latents
from crystools_pipelines.nodes.stages import DecoderNode, SamplerNode, TextEncoderNode
from crystools_pipelines.nodes.whole import VideoPipelineNode
from crystools_tpu import telemetry

Prompts: TypeAlias = tuple[Embeddings, Embeddings]


class _Node:
    MODEL = "cogvideox-t2v"
    NAME = "CogVideoX"
    CATEGORY = "crystools-tpu/CogVideoX"
    SOCKETS = "COGVIDEOX"


class CogVideoXTextEncoder(_Node, TextEncoderNode):
    """A prompt and a negative one to embeddings."""

    DESCRIPTION = "Encodes a prompt, and what the video must not show, with T5 on the TPU."
    INPUT_NAMES: ClassVar = ("prompt", "negative_prompt", "model_id")
    RETURN_NAMES: ClassVar = ("embeddings", "timing")

    def encode(self, prompt: str, negative_prompt: str, model_id: str) -> tuple[Prompts, Timing]:
        """Both prompts on one socket; they know the model from here on."""
        prompts = {"prompt": prompt, "negative_prompt": negative_prompt}
        (first, second), timing = self.encoded(prompts, model_id)
        return (first, second), timing


class CogVideoXTPUSampler(_Node, SamplerNode):
    """Noise to latents."""

    DESCRIPTION = "Denoises a video's latents on the TPU, with the checkpoint's own scheduler."
    INPUT_NAMES: ClassVar = (
        *("embeddings", "height", "width", "num_frames"),
        *("num_inference_steps", "guidance_scale", "seed"),
    )
    RETURN_NAMES: ClassVar = ("latents", "info", "timing")

    def sample(
        self, embeddings: Prompts, num_devices: int = 0, **settings: Any
    ) -> tuple[Latents, str, Timing]:
        """`info` is the table of stages. `settings` are the request's fields."""
        from crystools_tpu.stage_table import stage_text

        pair = [("embeddings", each) for each in embeddings]
        latents, report = self.sampled(pair, embeddings[0].location, num_devices, settings)
        return latents, stage_text(report), telemetry.to_wire(report)


class CogVideoXTPUVAEDecoder(_Node, DecoderNode):
    """Latents to frames."""

    DESCRIPTION = "Decodes a video's latents on the TPU, two latent frames at a time."
    INPUT_NAMES: ClassVar = ("latents", "fps")
    RETURN_NAMES: ClassVar = ("frames", "fps", "timing")

    def decode(self, latents: Latents, fps: int) -> tuple[Any, int, Timing]:
        """`frames` float32 `[frames, height, width, 3]` in 0..1."""
        frames, timing = self.decoded(latents, latents.location)
        return frames, fps, timing


class CogVideoXTPUPipeline(_Node, VideoPipelineNode):
    """A prompt to frames."""


NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS = node_mappings(
    CogVideoXTextEncoder, CogVideoXTPUSampler, CogVideoXTPUVAEDecoder, CogVideoXTPUPipeline
)
