"""Wan2.2 image-to-video's nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from crystools_pipelines.errors import RequestError
from crystools_pipelines.models import MODELS
from crystools_pipelines.node_support import (
    NUM_DEVICES,
    STEPS,
    TIMING,
    Embeddings,
    Latents,
    ModelNode,
    Timing,
    checkpoint_at,
    devices,
    model_id,
    real,
    seed,
    timing_of,
)
from crystools_pipelines.wan.i2v.request import Wan22I2VRequest
from crystools_pipelines.wan.nodes import (
    FRAMES,
    GUIDANCE,
    SIZE,
    Wan21TextEncoder,
    Wan21TPUVAEDecoder,
    guided,
    latents_of,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EMBEDDINGS: Final = "WAN22_EMBEDDINGS"
CONDITION: Final = "WAN22_CONDITION"
LATENT_INFO: Final = "WAN22_LATENT_INFO"
LATENTS: Final = "WAN22_LATENTS"

_CATEGORY: Final = "crystools-tpu/Wan2.2"
_MODEL: Final = {"model_id": model_id(MODELS["wan2.2-i2v"].hub_id)}


@dataclass(frozen=True, eq=False)
class LatentInfo:
    """What video a condition is for: its size in pixels, and `image`, floats `[height, width, 3]` in 0..1."""

    height: int
    width: int
    num_frames: int
    image: NDArray[np.float32]


class Wan22I2VImageEncoder(ModelNode):
    """The image that a video starts with, to what the transformers see beside the latents."""

    PIPELINE = "wan2.2-i2v"
    CATEGORY = _CATEGORY
    DESCRIPTION = "Encodes the image that the video starts with, stretched to the video's size, on the TPU."
    INPUTS: ClassVar = {"image": ("IMAGE", {}), **SIZE, "num_frames": FRAMES, **_MODEL}
    FUNCTION = "encode"
    RETURN_TYPES: ClassVar = (CONDITION, LATENT_INFO, TIMING)
    RETURN_NAMES: ClassVar = ("condition", "latent_info", "timing")

    @classmethod
    def VALIDATE_INPUTS(
        cls, height: int | None, width: int | None, num_frames: int | None, model_id: str | None
    ) -> bool | str:
        """The size must be one that the model can make."""
        given = {"height": height, "width": width, "num_frames": num_frames, "model_id": model_id}
        return cls.verdict(lambda **size: Wan22I2VRequest("", image="", **size), **given)

    def encode(
        self, image: Any, height: int, width: int, num_frames: int, model_id: str
    ) -> tuple[Any, LatentInfo, Timing]:
        """`condition` float32 `[1, 20, latent frames, height / 8, width / 8]`, on the host."""
        from crystools_pipelines.runtime.job import params_of
        from crystools_pipelines.wan.i2v.image import read_image
        from crystools_pipelines.wan.i2v.pipeline import ENCODER, encode_image
        from crystools_pipelines.wan.stages import check_vae, mesh_over

        info = LatentInfo(height, width, num_frames, stretch(image, height, width))
        request = Wan22I2VRequest("", **vars(info))
        checkpoint = checkpoint_at(model_id)
        check_vae(self.PIPELINE, checkpoint)
        mesh = mesh_over(self.PIPELINE, devices(), checkpoint, 2)
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


class Wan22I2VTextEncoder(Wan21TextEncoder):
    """A prompt and a negative one to embeddings."""

    PIPELINE = "wan2.2-i2v"
    CATEGORY = _CATEGORY
    INPUTS: ClassVar = {**Wan21TextEncoder.INPUTS, **_MODEL}
    RETURN_TYPES: ClassVar = (EMBEDDINGS, EMBEDDINGS, TIMING)


class Wan22I2VTPUSampler(ModelNode):
    """Noise to latents, by two transformers in turn."""

    PIPELINE = "wan2.2-i2v"
    CATEGORY = _CATEGORY
    DESCRIPTION = (
        "Denoises a video's latents on the TPU: one transformer for the noisy steps, one for the rest."
    )
    INPUTS: ClassVar = {
        "prompt_embeds": (EMBEDDINGS, {}),
        "negative_prompt_embeds": (EMBEDDINGS, {}),
        "condition": (CONDITION, {}),
        "latent_info": (LATENT_INFO, {}),
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "shift": real(5.0, 1.0, 20.0, 0.1, "of the schedule: 5 suits 720p, 3 suits 480p"),
        "seed": seed(0),
        **_MODEL,
        "boundary_ratio": real(0.9, 0.0, 1.0, 0.01, "transformer_2 takes the timesteps below this share"),
        "num_devices": NUM_DEVICES,
    }
    FUNCTION = "sample"
    RETURN_TYPES: ClassVar = (LATENTS, "INT", TIMING)
    RETURN_NAMES: ClassVar = ("latents", "num_frames", "timing")

    @classmethod
    def VALIDATE_INPUTS(cls, model_id: str | None) -> bool | str:
        """The model must be somewhere."""
        return cls.verdict(dict, model_id=model_id)

    def sample(
        self,
        prompt_embeds: Embeddings,
        negative_prompt_embeds: Embeddings,
        condition: Any,
        latent_info: LatentInfo,
        model_id: str,
        num_devices: int = 0,
        **settings: Any,
    ) -> tuple[Latents, int, Timing]:
        """Without guidance the negative embeddings are not used. `settings` are the request's fields."""
        import numpy as np

        from crystools_pipelines.runtime.job import params_of
        from crystools_pipelines.wan.i2v.pipeline import prepare
        from crystools_pipelines.wan.stages import denoise, mesh_over, transformer

        settings |= vars(latent_info)
        request = Wan22I2VRequest(prompt_embeds.prompt, negative_prompt_embeds.prompt, **settings)
        checkpoint = checkpoint_at(model_id)
        prepared = prepare(request, checkpoint)
        width = checkpoint.config(prepared.phases[0].component)["text_dim"]
        embeddings = guided(self.PIPELINE, request.branches, width, prompt_embeds, negative_prompt_embeds)
        mesh = mesh_over(self.PIPELINE, devices(num_devices), checkpoint, request.branches)
        parts = [transformer(mesh, phase.component) for phase in prepared.phases]
        with self.job(checkpoint, mesh, params_of(request), parts, request) as job:
            values = np.asarray(
                denoise(job, request, prepared.scheduler, prepared.phases, embeddings, condition)
            )
        latents = latents_of(self.PIPELINE, checkpoint.location, values, request)
        return latents, request.num_frames, timing_of(job)


class Wan22I2VTPUVAEDecoder(Wan21TPUVAEDecoder):
    """Latents to frames."""

    PIPELINE = "wan2.2-i2v"
    CATEGORY = _CATEGORY
    INPUTS: ClassVar = {**Wan21TPUVAEDecoder.INPUTS, "latents": (LATENTS, {}), **_MODEL}


NODE_CLASS_MAPPINGS: Final = {
    "Wan22I2VImageEncoder": Wan22I2VImageEncoder,
    "Wan22I2VTextEncoder": Wan22I2VTextEncoder,
    "Wan22I2VTPUSampler": Wan22I2VTPUSampler,
    "Wan22I2VTPUVAEDecoder": Wan22I2VTPUVAEDecoder,
}
NODE_DISPLAY_NAME_MAPPINGS: Final = {
    "Wan22I2VImageEncoder": "Wan2.2 I2V Image Encoder (TPU)",
    "Wan22I2VTextEncoder": "Wan2.2 I2V Text Encoder (TPU)",
    "Wan22I2VTPUSampler": "Wan2.2 I2V Sampler (TPU)",
    "Wan22I2VTPUVAEDecoder": "Wan2.2 I2V VAE Decoder (TPU)",
}
