"""Wan2.2 image-to-video: two transformers that see the image beside the latents."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from crystools_pipelines.parallel import layout
from crystools_pipelines.runtime.job import Job
from crystools_pipelines.runtime.stages import run_turns
from crystools_pipelines.wan import pipeline
from crystools_pipelines.wan.experts import ExpertsPipeline
from crystools_pipelines.wan.request import VAE_TEMPORAL_RATIO
from crystools_pipelines.wan.wan22_i2v.costs import vae_encode
from crystools_pipelines.wan.wan22_i2v.encoder import VAE_ENCODER, build_encoder, encoding_turns
from crystools_pipelines.wan.wan22_i2v.image import read_image
from crystools_pipelines.wan.wan22_i2v.request import Wan22I2VRequest
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_pipelines.weights.part import Part
from crystools_tpu.telemetry import StageName, StageWork

ENCODER = Part("vae", build_encoder, VAE_ENCODER, (r"(decoder|post_quant_conv)\..*",), dtype="float32")


@dataclass(frozen=True)
class Prepared(pipeline.Prepared):
    """What a request needs beside the weights, its `image` too: -1..1, float32 `[1, 3, 1, height, width]`."""

    image: NDArray[np.float32]


class Wan22I2V(ExpertsPipeline[Wan22I2VRequest]):
    """Wan2.2 image-to-video's stages."""

    model = "wan2.2-i2v"

    def prepare(self, request: Wan22I2VRequest, checkpoint: Checkpoint) -> Prepared:
        image = read_image(request.image, request.height, request.width)
        return Prepared(**vars(super().prepare(request, checkpoint)), image=image)

    def parts(self, mesh: Mesh, prepared: pipeline.Prepared) -> list[Part[Any]]:
        encoder, *others = super().parts(mesh, prepared)
        return [encoder, ENCODER, *others]

    def condition_work(self, checkpoint: Checkpoint, request: Wan22I2VRequest) -> Sequence[StageWork]:
        frames = vae_encode(checkpoint.config("vae"), request.latent_shape)
        flops = float(sum(frame.flops for frame in frames))
        return [StageWork(StageName.VAE_ENCODE, None, len(frames), flops)]

    def condition(self, job: Job, request: Wan22I2VRequest, prepared: Any) -> NDArray[np.float32]:
        return encode_image(job, request.latent_shape, prepared.image)


PIPELINE = Wan22I2V()


def encode_image(
    job: Job, latent_shape: tuple[int, int, int, int, int], image: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The image as the transformers see it beside the latents: `[1, 20, frames, height, width]`, on the host.

    The mask, 1 where a frame is given, then the latents of the image and of the blank frames after it.
    """
    encoder = job.load(ENCODER)
    batch, _, count, height, width = latent_shape
    split = layout.pixels(job.mesh, latent_shape)
    latents = run_turns(
        job,
        StageName.VAE_ENCODE,
        encoder,
        job.put(image, split),
        encoding_turns(encoder.module, job.checkpoint.config("vae"), latent_shape),
        sharding=job.everywhere,
        cache_sharding=split,
        axis=2,
    )
    mask = np.zeros((batch, VAE_TEMPORAL_RATIO, count, height, width), np.float32)
    mask[:, :, 0] = 1
    return np.concatenate([mask, latents], axis=1)
