"""MFU, MBU and what bounds a stage by the roofline, from a run's own counts and the chip table."""

from __future__ import annotations

from crystools_tpu.telemetry.events import Bound, Device, Ratio


def mfu(flops: float | None, seconds: float, device: Device | None, method: str) -> Ratio | None:
    """Model FLOPs utilisation: FLOPs / (seconds x chips x peak FLOP/s of a chip).

    Defined as in PaLM (arXiv:2204.02311, appendix B): the model's FLOPs, not what the hardware executed.
    None where the FLOPs or the peak are unknown.
    """
    if flops is None or device is None or device.peak_flops_per_chip is None:
        return None
    possible = seconds * device.chips * device.peak_flops_per_chip
    return Ratio(flops / possible, flops, possible, "flop", f"{method}; peak: {device.peak_source}")


def mbu(moved_bytes: float | None, seconds: float, device: Device | None) -> Ratio | None:
    """Memory bandwidth utilisation: bytes that must move / (seconds x chips x bytes/s of a chip's HBM)."""
    bandwidth = device.hbm_bandwidth_bytes_per_second_per_chip if device else None
    if moved_bytes is None or device is None or bandwidth is None:
        return None
    possible = seconds * device.chips * bandwidth
    return Ratio(moved_bytes / possible, moved_bytes, possible, "byte", "bytes that must move")


def bound(used: Ratio | None, moved: Ratio | None, host_wait_ratio: float) -> Bound | None:
    """What limits the steps: the host, where the device waited for it more than half of the time;
    else the higher of the two utilisations (the longer of the two roofline times). None where unknown."""
    if used is None or moved is None:
        return None
    if host_wait_ratio > 0.5:
        return Bound.HOST
    return Bound.COMPUTE if used.ratio >= moved.ratio else Bound.BANDWIDTH
