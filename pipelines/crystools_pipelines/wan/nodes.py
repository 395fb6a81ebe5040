"""The nodes of Wan's models; each model says its sockets, its fields and what is its own."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from crystools_pipelines.nodes.base import Timing
from crystools_pipelines.nodes.handed import Embeddings, Latents
from crystools_pipelines.nodes.stages import DecoderNode, SamplerNode, TextEncoderNode
from crystools_pipelines.nodes.whole import VideoPipelineNode
from crystools_tpu import telemetry

EMBEDDINGS: Final = ("prompt_embeds", "negative_prompt_embeds")
SIZE: Final = ("height", "width", "num_frames")
"""The names of the fields that say how large a video is."""


class WanTextEncoder(TextEncoderNode):
    """A prompt and a negative one to embeddings."""

    DESCRIPTION = "Encodes a prompt, and what the video must not show, with UMT5 on the TPU."
    INPUT_NAMES: ClassVar = ("prompt", "negative_prompt", "model_id")
    RETURN_NAMES: ClassVar = (*EMBEDDINGS, "timing")

    def encode(
        self, prompt: str, negative_prompt: str, model_id: str
    ) -> tuple[Embeddings, Embeddings, Timing]:
        """Each prompt on a socket of its own."""
        prompts = {"prompt": prompt, "negative_prompt": negative_prompt}
        (first, second), timing = self.encoded(prompts, model_id)
        return first, second, timing


class WanSampler(SamplerNode):
    """Noise to latents."""

    DESCRIPTION = "Denoises a video's latents on the TPU, with the checkpoint's own scheduler."
    RETURN_NAMES: ClassVar = ("latents", "num_frames", "timing")
    LATENT_FORMAT = "Wan21"

    def sample(
        self,
        prompt_embeds: Embeddings,
        negative_prompt_embeds: Embeddings,
        model_id: str,
        num_devices: int = 0,
        condition: Any = None,
        **settings: Any,
    ) -> tuple[Latents, int, Timing]:
        """Without guidance the negative embeddings are not used. `settings` are the request's fields."""
        embeddings = [*zip(EMBEDDINGS, (prompt_embeds, negative_prompt_embeds), strict=True)]
        latents, report = self.sampled(embeddings, model_id, num_devices, settings, condition)
        return latents, latents.size.num_frames, telemetry.to_wire(report)


class ExpertsSampler(WanSampler):
    """Noise to latents, by two transformers in turn."""

    DESCRIPTION = (
        "Denoises a video's latents on the TPU: one transformer for the noisy steps, one for the rest."
    )


class WanDecoder(DecoderNode):
    """Latents to frames."""

    DESCRIPTION = "Decodes a video's latents on the TPU, a latent frame at a time."
    INPUT_NAMES: ClassVar = ("latents", "model_id", "fps")
    RETURN_NAMES: ClassVar = ("frames", "fps", "timing")

    def decode(self, latents: Latents, model_id: str, fps: int) -> tuple[Any, int, Timing]:
        """`frames` float32 `[frames, height, width, 3]` in 0..1."""
        frames, timing = self.decoded(latents, model_id)
        return frames, fps, timing


class WanPipeline(VideoPipelineNode):
    """A prompt to frames."""

    LATENT_FORMAT = WanSampler.LATENT_FORMAT
