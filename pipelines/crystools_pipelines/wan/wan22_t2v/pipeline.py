"""Wan2.2 text-to-video: two transformers, as diffusers' WanPipeline runs them."""

from collections.abc import Sequence

from crystools_pipelines.runtime.flow import FlowScheduler
from crystools_pipelines.runtime.pipeline import Phase
from crystools_pipelines.wan.experts import ExpertsPipeline
from crystools_pipelines.wan.wan22_t2v.request import Wan22T2VRequest
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_pipelines.weights.inspection import misfit


class Wan22T2V(ExpertsPipeline[Wan22T2VRequest]):
    """Wan2.2 text-to-video's stages."""

    model = "wan2.2-t2v"

    def phases(
        self, request: Wan22T2VRequest, checkpoint: Checkpoint, scheduler: FlowScheduler
    ) -> Sequence[Phase]:
        """Raises CheckpointError for Wan2.1's checkpoint, unless its one transformer is to take all steps."""
        index = checkpoint.index()
        has_one = index.get("boundary_ratio") is None and index.get("transformer_2") in (None, [None, None])
        if has_one and request.boundary_ratio != 0:
            raise misfit(self.model, checkpoint, f" with one transformer, {self.model} takes two")
        return super().phases(request, checkpoint, scheduler)


PIPELINE = Wan22T2V()
