"""The part of libtpu's SDK that monitors read."""

from . import tpumonitoring

__all__ = ["tpumonitoring"]
