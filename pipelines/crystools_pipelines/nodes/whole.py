"""A whole pipeline as one node: all stages in one run, from the prompt to the frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from crystools_pipelines.models import MODELS
from crystools_pipelines.nodes.base import Timing, checkpoint_at, devices, timing_of
from crystools_pipelines.nodes.stages import DenoisingNode


class PipelineNode(DenoisingNode):
    """A prompt to frames."""

    TITLE = "Pipeline"
    FUNCTION = "generate"
    OPTIONAL_NAMES: ClassVar[Sequence[str]] = ("model_id",)

    def generated(
        self, model_id: str | None = None, num_devices: int = 0, **inputs: Any
    ) -> tuple[Any, Timing]:
        """Frames, a float32 tensor `[frames, height, width, 3]` in 0..1, as `run.generate` makes them.

        `inputs` are `lora` and the request's fields. Without a `model_id` it is the published model.
        """
        import torch

        from crystools_pipelines.run import arranged
        from crystools_pipelines.runtime.job import params_of

        request = self.request(**inputs)
        checkpoint = checkpoint_at(MODELS[self.MODEL].hub_id if model_id is None else model_id, request.loras)
        whole = arranged(request, checkpoint, devices(num_devices))
        params = params_of(request)
        with self.job(whole.checkpoint, whole.mesh, params, whole.parts, request, whole.work) as job:
            _, frames = whole.run(job)
        return torch.from_numpy(frames), timing_of(job)


class VideoPipelineNode(PipelineNode):
    """A prompt to a video's frames."""

    DESCRIPTION = "All of it in one run on the TPU: from the prompt to the video's frames."
    INPUT_NAMES: ClassVar[Sequence[str]] = (
        *("prompt", "negative_prompt", "height", "width", "num_frames"),
        *("num_inference_steps", "guidance_scale", "seed"),
    )
    OPTIONAL_NAMES: ClassVar[Sequence[str]] = ("model_id", "fps")
    RETURN_NAMES: ClassVar = ("frames", "fps", "timing")

    def generate(self, fps: int = 16, **inputs: Any) -> tuple[Any, int, Timing]:
        """`frames` float32 `[frames, height, width, 3]` in 0..1; `fps` as it is given."""
        frames, timing = self.generated(**inputs)
        return frames, fps, timing
