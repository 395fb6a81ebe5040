"""Wan2.1 text-to-video: one transformer for all steps."""

from collections.abc import Sequence

from crystools_pipelines.runtime.flow import FlowScheduler
from crystools_pipelines.runtime.pipeline import Phase
from crystools_pipelines.wan.pipeline import WanPipeline
from crystools_pipelines.wan.wan21_t2v.request import Wan21Request
from crystools_pipelines.weights.checkpoint import Checkpoint


class Wan21(WanPipeline[Wan21Request]):
    """Wan2.1's stages."""

    model = "wan2.1-t2v"

    def shift(self, request: Wan21Request) -> float:
        return request.flow_shift

    def phases(
        self, request: Wan21Request, checkpoint: Checkpoint, scheduler: FlowScheduler
    ) -> Sequence[Phase]:
        return [Phase("transformer", request.num_inference_steps, request.guidance_scale)]


PIPELINE = Wan21()
