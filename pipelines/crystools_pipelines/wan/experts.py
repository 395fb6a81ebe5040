"""Wan2.2's two transformers: one for the noisy steps, one for the rest."""

from collections.abc import Sequence
from typing import Generic, TypeVar

from crystools_pipelines.errors import CheckpointError, RequestError
from crystools_pipelines.models import MODELS
from crystools_pipelines.runtime.flow import FlowScheduler
from crystools_pipelines.runtime.pipeline import Phase
from crystools_pipelines.wan.pipeline import WanPipeline
from crystools_pipelines.wan.request import ExpertsRequest
from crystools_pipelines.weights.checkpoint import Checkpoint

Request = TypeVar("Request", bound=ExpertsRequest)


class ExpertsPipeline(WanPipeline[Request], Generic[Request]):
    """A model of the family with two experts, as diffusers' pipelines divide the steps among them."""

    def shift(self, request: Request) -> float:
        return request.shift

    def phases(self, request: Request, checkpoint: Checkpoint, scheduler: FlowScheduler) -> Sequence[Phase]:
        """Raises CheckpointError for Wan2.2 5B, RequestError for a scale of an expert that has no steps."""
        index = checkpoint.index()
        if index.get("expand_timesteps"):
            wanted = MODELS[self.model].hub_id.rpartition("/")[2].removesuffix("-Diffusers")
            raise CheckpointError(f"{checkpoint.location} is Wan2.2 5B; give a checkpoint of {wanted}")
        ratio = index.get("boundary_ratio") if request.boundary_ratio is None else request.boundary_ratio
        if ratio is None and request.guidance_scale_2 is not None:
            raise RequestError(
                "guidance_scale_2", "the checkpoint has no boundary; give a boundary_ratio too"
            )
        boundary = (ratio or 0) * scheduler.config.num_train_timesteps
        noisy = int((scheduler.timesteps >= boundary).sum())
        scale = request.guidance_scale
        scale_2 = scale if request.guidance_scale_2 is None else request.guidance_scale_2
        return [
            Phase("transformer", noisy, scale),
            Phase("transformer_2", request.num_inference_steps - noisy, scale_2),
        ]
