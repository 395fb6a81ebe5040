"""What loading a checkpoint costs the host: `python -m benchmarks.loading [--gib 4] [--json FILE]`.

A synthetic checkpoint goes onto 8 virtual CPU devices in a process of its own. There the devices' memory is
the process's, so the weights themselves count once; whatever is above that is what loading needed besides.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

LAYERS = 16
LAYERS_PER_FILE = 4
TARGET_RATIO = 1.3


@dataclass(frozen=True)
class Loading:
    """One load. `peak_bytes` is the process's largest, `idle_bytes` what it had before; both resident."""

    checkpoint_bytes: int
    idle_bytes: int
    peak_bytes: int
    read_bytes: int
    seconds: float

    @property
    def peak_ratio(self) -> float:
        """The process's peak over the checkpoint's size, the interpreter and jax included."""
        return self.peak_bytes / self.checkpoint_bytes

    @property
    def read_ratio(self) -> float:
        """Bytes read from files over the checkpoint's size."""
        return self.read_bytes / self.checkpoint_bytes


def width_of(total_bytes: int) -> int:
    """The width, a multiple of 8, of layers that are so many bytes in all: `[4 width, width]` and back."""
    return max(1, round(math.sqrt(total_bytes / LAYERS / 16) / 8)) * 8


def write_checkpoint(folder: Path, width: int) -> None:
    """Feed-forward layers in bfloat16, in several files with an index."""
    import torch
    from safetensors.torch import save_file

    places: dict[str, str] = {}
    for first in range(0, LAYERS, LAYERS_PER_FILE):
        file = f"model-{first:05}.safetensors"
        tensors = {}
        for layer in range(first, first + LAYERS_PER_FILE):
            tensors[f"layers.{layer}.up.weight"] = torch.full((4 * width, width), 0.5, dtype=torch.bfloat16)
            tensors[f"layers.{layer}.down.weight"] = torch.full((width, 4 * width), 0.5, dtype=torch.bfloat16)
        save_file(tensors, folder / file)
        places |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def load(folder: Path, width: int) -> None:
    """Loads the checkpoint onto all devices and prints what it took."""
    import jax
    import torch
    from jax.sharding import PartitionSpec as P

    from crystools_pipelines.interop.scan import ScannedLayers
    from crystools_pipelines.parallel.mesh import TENSOR, make_mesh
    from crystools_pipelines.weights.loading import plan_state
    from crystools_pipelines.weights.shapes import abstract_state
    from crystools_pipelines.weights.stored import StoredWeights

    def feed_forward() -> torch.nn.Module:
        up = torch.nn.Linear(width, 4 * width, bias=False)
        down = torch.nn.Linear(4 * width, width, bias=False)
        return torch.nn.ModuleDict({"up": up, "down": down})

    with torch.device("meta"):
        stack = torch.nn.ModuleList(feed_forward() for _ in range(LAYERS))
    module = torch.nn.ModuleDict({"layers": ScannedLayers(stack)})
    mesh = make_mesh(jax.devices(), branches=1, widths=(width,))
    rules = (
        (r"layers\.layer\.up\.weight", P(TENSOR, None)),
        (r"layers\.layer\.down\.weight", P(None, TENSOR)),
    )
    jax.jit(lambda x: x + 1)(0.0).block_until_ready()  # the compiler itself is no cost of loading
    idle_bytes, read_before, start = peak_bytes(), bytes_read(), time.perf_counter()
    shapes = abstract_state(module, mesh, rules, "bfloat16")
    state = plan_state(module, StoredWeights(folder, folder), shapes).load()
    jax.block_until_ready(state)
    loading = Loading(
        checkpoint_bytes=sum(file.stat().st_size for file in folder.glob("*.safetensors")),
        idle_bytes=idle_bytes,
        peak_bytes=peak_bytes(),
        read_bytes=bytes_read() - read_before,
        seconds=time.perf_counter() - start,
    )
    print(json.dumps(asdict(loading)))


def peak_bytes() -> int:
    """The largest resident size that this process has had.

    From /proc: `getrusage` counts what the parent had when it started this process.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def bytes_read() -> int:
    """What this process has asked the kernel to read (`rchar`), from a disk or from its cache."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def measure(total_bytes: int) -> Loading:
    """Writes a checkpoint of about so many bytes and loads it in a process of its own."""
    width = width_of(total_bytes)
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(folder, width)
        command = [sys.executable, "-m", "benchmarks.loading", "--load", str(folder), "--width", str(width)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return Loading(**json.loads(done.stdout))


def main() -> None:
    """Measures, prints, and writes the figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=4.0, help="size of the checkpoint (default: 4)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--width", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load is not None:
        load(arguments.load, arguments.width)
        return
    loading = measure(round(arguments.gib * 2**30))
    met = "met" if loading.peak_ratio <= TARGET_RATIO else "MISSED"
    print(
        f"peak memory {loading.peak_bytes / 2**30:.2f} GiB"
        f" / checkpoint {loading.checkpoint_bytes / 2**30:.2f} GiB = {loading.peak_ratio:.3f}"
        f" (target at most {TARGET_RATIO}: {met}), {loading.idle_bytes / 2**30:.2f} GiB of it before loading"
    )
    print(f"read {loading.read_ratio:.4f} times the files' bytes in {loading.seconds:.1f} s")
    if arguments.json is not None:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        figures = {"peak_ratio": loading.peak_ratio, "read_ratio": loading.read_ratio}
        result = {"machine": machine, "devices": 8, **asdict(loading), **figures}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
