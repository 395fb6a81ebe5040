"""Wan2.2 image-to-video's nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from crystools_pipelines.errors import RequestError
from crystools_pipelines.nodes.base import (
    ModelNode,
    Timing,
    checkpoint_at,
    devices,
    node_mappings,
    timing_of,
)
from crystools_pipelines.nodes.handed import Latents
from crystools_pipelines.wan.nodes import (
    EMBEDDINGS,
    SIZE,
    ExpertsSampler,
    WanDecoder,
    WanPipeline,
    WanTextEncoder,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class LatentInfo:
    """What video a condition is for: its size in pixels, and `image`, floats `[height, width, 3]` in 0..1."""

    height: int
    width: int
    num_frames: int
    image: NDArray[np.float32]


class _Node:
    MODEL = "wan2.2-i2v"
    NAME = "Wan2.2 I2V"
    CATEGORY = "crystools-tpu/Wan2.2"
    SOCKETS = "WAN22"


class Wan22I2VImageEncoder(_Node, ModelNode):
    """The image that a video starts with, to what the transformers see beside the latents."""

    DESCRIPTION = "Encodes the image that the video starts with, stretched to the video's size, on the TPU."
    TITLE = "Image Encoder"
    FUNCTION = "encode"
    INPUT_NAMES: ClassVar = ("image", *SIZE, "model_id")
    RETURN_NAMES: ClassVar = ("condition", "latent_info", "timing")

    def encode(
        self, image: Any, height: int, width: int, num_frames: int, model_id: str
    ) -> tuple[Any, LatentInfo, Timing]:
        """`condition` float32 `[1, 20, latent frames, height / 8, width / 8]`, on the host."""
        from crystools_pipelines.runtime.job import params_of
        from crystools_pipelines.wan.wan22_i2v.image import read_image
        from crystools_pipelines.wan.wan22_i2v.pipeline import ENCODER, encode_image

        info = LatentInfo(height, width, num_frames, stretch(image, height, width))
        request = self.request_class()("", **vars(info))
        pipeline, checkpoint = self.pipeline(), checkpoint_at(model_id)
        pipeline.check_vae(checkpoint)
        mesh = pipeline.mesh(devices(), checkpoint)
        with self.job(checkpoint, mesh, params_of(info), [ENCODER]) as job:
            condition = encode_image(job, request.latent_shape, read_image(info.image, height, width))
        return condition, info, timing_of(job)


def stretch(image: Any, height: int, width: int) -> NDArray[np.float32]:
    """A ComfyUI IMAGE, `[1, height, width, channels]` in 0..1, in this size: as a picture file would be.

    Grey is taken as RGB, and of RGBA the alpha left out. Raises RequestError for several images, and for what
    is none.
    """
    import numpy as np
    import torch
    from PIL import Image

    tensor = torch.as_tensor(image)
    shape = list(tensor.shape)
    if len(shape) != 4 or shape[3] not in (1, 3, 4) or 0 in shape or not tensor.is_floating_point():
        raise RequestError("image", f"{tensor.dtype} {shape} is no IMAGE; give floats [1, height, width, 3]")
    if shape[0] != 1:
        raise RequestError("image", f"there are {shape[0]} of them; give one")
    values = tensor[0, ..., :3].detach().cpu().float().numpy()
    if not np.isfinite(values).all():
        raise RequestError("image", "some values are NaN or infinite; look at the node that made it")
    pixels = np.round(values.clip(0, 1) * 255).astype(np.uint8)
    rgb = Image.fromarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
    stretched = rgb.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(stretched, np.float32) / np.float32(255)


class Wan22I2VTextEncoder(_Node, WanTextEncoder):
    """A prompt and a negative one to embeddings."""


class Wan22I2VTPUSampler(_Node, ExpertsSampler):
    """Noise to latents, by two transformers in turn."""

    INPUT_NAMES: ClassVar = (
        *(*EMBEDDINGS, "condition", "latent_info", "num_inference_steps", "guidance_scale", "shift", "seed"),
        *("model_id", "boundary_ratio"),
    )

    def sample(self, latent_info: LatentInfo, **inputs: Any) -> tuple[Latents, int, Timing]:  # type: ignore[override]
        """`latent_info` says which video it is."""
        return super().sample(**inputs, **vars(latent_info))


class Wan22I2VTPUVAEDecoder(_Node, WanDecoder):
    """Latents to frames."""


class Wan22I2VTPUPipeline(_Node, WanPipeline):
    """A prompt and the image that the video starts with to frames, by two transformers in turn."""

    INPUT_NAMES: ClassVar = ("image", *WanPipeline.INPUT_NAMES)
    OPTIONAL_NAMES: ClassVar = ("model_id", "fps", "shift", "boundary_ratio")

    def generate(self, image: Any, height: int, width: int, **inputs: Any) -> tuple[Any, int, Timing]:  # type: ignore[override]
        """The image is stretched to the video's size."""
        stretched = stretch(image, height, width)
        return super().generate(image=stretched, height=height, width=width, **inputs)


NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS = node_mappings(
    Wan22I2VImageEncoder,
    Wan22I2VTextEncoder,
    Wan22I2VTPUSampler,
    Wan22I2VTPUVAEDecoder,
    Wan22I2VTPUPipeline,
)
