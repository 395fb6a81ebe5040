"""A tiny Wan2.2 text-to-video."""

from diffusers import WanPipeline

from crystools_pipelines.wan.tiny import wan_components


def tiny_checkpoint() -> WanPipeline:
    """Two transformers."""
    return WanPipeline(**wan_components(transformers=2), boundary_ratio=0.875)
