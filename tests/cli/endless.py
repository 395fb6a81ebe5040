"""`generate` with a model that does what its first argument says, for the tests of how the command ends."""

from __future__ import annotations

import atexit
import hashlib
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from crystools_tpu import telemetry
from crystools_tpu.cli import main, signals
from crystools_tpu.whole_file import written_whole


def steps(run: telemetry.Run, out: Path) -> None:
    """Between two steps most of the time, with something that goes on after the run, as a compile does."""
    atexit.register(time.sleep, 600)
    with run.stage("denoise", steps=200) as stage:
        while True:
            stage.step(None)
            time.sleep(0.001)


def save(run: telemetry.Run, out: Path) -> None:
    """A file is half written."""
    with run.stage("save"), written_whole(out) as unfinished:
        unfinished.write_text("half")
        print("half written", flush=True)
        time.sleep(600)


def compute(run: telemetry.Run, out: Path) -> None:
    """Far from Python, as in a long compile."""
    with run.stage("vae_decode"), written_whole(out):
        print("computing", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)


def dawdle(run: telemetry.Run, out: Path) -> None:
    """Takes its time to end."""
    with run.stage("load"):
        try:
            print("waiting", flush=True)
            time.sleep(600)
        finally:
            print("ending", flush=True)
            time.sleep(600)


def generate(request: Any, *, out: Path, **others: Any) -> Any:
    with telemetry.run("wan2.1-t2v") as run:
        globals()[WHAT](run, out)


if __name__ == "__main__":
    WHAT = sys.argv[1]
    sys.argv[1:2] = ["generate", "wan2.1-t2v", "--checkpoint", "none", "--prompt", "a boat"]
    # These would wait for nothing but the time.
    sooner = {"compute": ("_GRACE_SECONDS", 0.5), "dawdle": ("_SAME_SIGNAL_SECONDS", 0.0)}
    if WHAT in sooner:
        setattr(signals, *sooner[WHAT])
    # What far from Python computes has jax and torch beside it, as a run has; the others are there sooner.
    if WHAT == "compute":
        patch: Any = mock.patch("crystools_pipelines.run.generate", generate)
    else:
        patch = mock.patch.dict(sys.modules, {"crystools_pipelines.run": SimpleNamespace(generate=generate)})
    with patch:
        sys.exit(main())
