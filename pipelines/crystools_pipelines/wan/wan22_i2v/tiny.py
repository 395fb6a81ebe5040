"""A tiny Wan2.2 image-to-video."""

from diffusers import DiffusionPipeline

from crystools_pipelines.wan.tiny import wan_components


def tiny_checkpoint() -> DiffusionPipeline:
    """Two transformers, and an image that the VAE alone encodes."""
    from diffusers import WanImageToVideoPipeline  # which complains of a missing torchvision when imported

    components = wan_components(condition_channels=20, transformers=2)
    return WanImageToVideoPipeline(**components, boundary_ratio=0.9)
