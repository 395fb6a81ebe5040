"""A tiny Wan2.1 text-to-video."""

from diffusers import WanPipeline

from crystools_pipelines.wan.tiny import wan_components


def tiny_checkpoint() -> WanPipeline:
    """One transformer."""
    return WanPipeline(**wan_components())
