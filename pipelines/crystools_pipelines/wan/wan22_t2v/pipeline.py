"""Wan2.2 text-to-video: two transformers, as diffusers' WanPipeline runs them."""

from collections.abc import Sequence

from diffusers import UniPCMultistepScheduler

from crystools_pipelines.wan.experts import ExpertsPipeline
from crystools_pipelines.wan.pipeline import Phase
from crystools_pipelines.wan.wan22_t2v.request import Wan22T2VRequest
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_pipelines.weights.inspection import misfit


class Wan22T2V(ExpertsPipeline[Wan22T2VRequest]):
    """Wan2.2 text-to-video's stages."""

    model = "wan2.2-t2v"

    def phases(
        self, request: Wan22T2VRequest, checkpoint: Checkpoint, scheduler: UniPCMultistepScheduler
    ) -> Sequence[Phase]:
        """Raises CheckpointError for a checkpoint without a boundary, which is Wan2.1's."""
        if request.boundary_ratio is None and checkpoint.index().get("boundary_ratio") is None:
            what = (
                f" with a single transformer (no boundary_ratio in model_index.json), {self.model} takes two"
            )
            raise misfit(self.model, checkpoint, what)
        return super().phases(request, checkpoint, scheduler)


PIPELINE = Wan22T2V()
