"""The command `crystools-tpu`."""

from crystools_tpu.cli.main import main

__all__ = ["main"]
