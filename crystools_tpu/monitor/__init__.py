"""From sources to snapshots, at a rate, while somebody listens."""

from crystools_tpu.monitor.monitor import Monitor, check_interval
from crystools_tpu.monitor.snapshot import Snapshot, SourceHealth

__all__ = ["Monitor", "Snapshot", "SourceHealth", "check_interval"]
