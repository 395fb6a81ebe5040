"""What stages, nodes and sizes are called, wherever they are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from crystools_tpu.telemetry.events import Node, StageForecast, StageName, StageReport

_MIB = 2**20
_GIB = 2**30

_ID_CHARACTERS: Final = 8


_TITLES: Final[Mapping[StageName, str]] = {
    StageName.DOWNLOAD: "Download",
    StageName.LOAD: "Load",
    StageName.TEXT_ENCODE: "Text encode",
    StageName.IMAGE_ENCODE: "Image encode",
    StageName.DENOISE: "Denoise",
    StageName.VAE_ENCODE: "VAE encode",
    StageName.VAE_DECODE: "VAE decode",
    StageName.SAVE: "Save",
    StageName.NODE: "Node",
}


def stage_title(stage: StageReport) -> str:
    """`Denoise transformer`: the stage as sentences and the page call it; of a node its title or class."""
    if stage.node is not None:
        return node_label(stage.node)
    title = _TITLES[stage.name]
    return f"{title} {stage.component}" if stage.component else title


def stage_label(stage: StageReport | StageForecast) -> str:
    """`load vae`, or just the stage's name; of a node its title, or else its class."""
    if isinstance(stage, StageReport) and stage.node is not None:
        return node_label(stage.node)
    return f"{stage.name.value} {stage.component}" if stage.component else stage.name.value


def node_label(node: Node) -> str:
    """What its user calls the node, or else its class."""
    return node.title or node.class_type


def size_label(size_bytes: int) -> str:
    """`31.25 GiB`, below one of them `57.3 MiB`."""
    return f"{size_bytes / _GIB:.2f} GiB" if size_bytes >= _GIB else f"{size_bytes / _MIB:.1f} MiB"


def short_id(run_id: str) -> str:
    """The beginning of a run's id, which tells it from others as a rule."""
    return run_id[:_ID_CHARACTERS]
