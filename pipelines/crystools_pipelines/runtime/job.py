"""What every pipeline does around its own stages: where it runs, what it loads, what it hands back."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import torch
from diffusers import ModelMixin
from diffusers.utils.torch_utils import randn_tensor
from jax.sharding import Mesh, NamedSharding
from numpy.typing import NDArray

from crystools_pipelines.runtime.checkpoint import Checkpoint
from crystools_pipelines.runtime.compile_cache import default_compile_cache
from crystools_pipelines.runtime.errors import RequestError
from crystools_pipelines.runtime.mesh import replicated
from crystools_pipelines.runtime.out_of_memory import in_words, with_room
from crystools_pipelines.runtime.residency import Identity, identify, on_behalf_of, residency
from crystools_pipelines.runtime.sharding import Rules
from crystools_pipelines.runtime.weights import State, StatePlan, plan_state
from crystools_tpu import telemetry
from crystools_tpu.telemetry import RunReport, StageName, Status

DTYPES = ("bfloat16", "float32")

Module = TypeVar("Module", bound=torch.nn.Module)


@dataclass(frozen=True)
class Generation:
    """A finished video or image: `frames` float32 `[frames, height, width, 3]` in 0..1 (an image is one
    frame); `latents` float32 as the last denoising step left them; the run's report."""

    frames: NDArray[np.float32]
    latents: NDArray[np.float32]
    report: RunReport


@dataclass(frozen=True)
class Job:
    """Where a run's stages run: the checkpoint, the mesh its weights go to, and in which dtype."""

    checkpoint: Checkpoint
    mesh: Mesh
    dtype: str
    run: telemetry.Run

    @property
    def everywhere(self) -> NamedSharding:
        """The sharding of what every device holds whole."""
        return replicated(self.mesh)

    def load(
        self,
        component: str,
        build: Callable[[Path], Module],
        rules: Rules,
        *,
        dtype: str | None = None,
    ) -> tuple[Module, State]:
        """The component's module and its weights on the mesh, in a `load` stage of its own.

        They stay in the devices' memory for the next run. In this one they are safe from being evicted until
        the stage after their loading has ended: a later stage that needs them too loads them again, which
        costs nothing while they are there.

        `build` makes the module from the component's folder, without weights. It is a module's function, or a
        partial of one: by it the next run knows what it wants again. `dtype` is the job's own unless given;
        what a diffusers module names as its float32 parameters stays so.
        """
        with self.run.stage(StageName.LOAD, component=component):
            folder = self.checkpoint.weights(component)
            chosen = dtype or self.dtype

            def plan() -> tuple[Module, StatePlan]:
                module = build(folder)
                # transformers has the same attribute, but for float16 alone.
                float32 = (module._keep_in_fp32_modules or ()) if isinstance(module, ModelMixin) else ()
                return module, plan_state(
                    module, folder, mesh=self.mesh, rules=rules, dtype=chosen, float32=float32
                )

            identity = Identity(self.checkpoint.location, component, identify(build), self.mesh, chosen)
            in_use = partial(_needs, self.run, len(self.run.report.stages))
            return with_room(residency.load, identity, folder, plan, in_use)


def _needs(run: telemetry.Run, loaded: int) -> bool:
    """Whether `run` may still use what it loaded when it had `loaded` stages: none after them has ended."""
    report = run.report
    later = [stage for stage in report.stages[loaded:] if stage.name is not StageName.LOAD]
    return report.status is Status.RUNNING and all(stage.status is Status.RUNNING for stage in later)


@contextmanager
def started_run(
    pipeline: str, request: Any, checkpoint: Checkpoint, devices: list[jax.Device]
) -> Iterator[telemetry.Run]:
    """A run of `pipeline` with the fields of the dataclass `request` as its parameters.

    Raises OutOfMemoryError where a stage exhausts the devices' memory.
    """
    params = {name: value for name, value in dataclasses.asdict(request).items() if _is_plain(value)}
    try:
        with (
            default_compile_cache(),
            telemetry.run(pipeline, model_id=checkpoint.location, params=params, devices=devices) as run,
            on_behalf_of(run.run_id),
            in_words(run),
        ):
            yield run
    finally:
        residency.free_leaving()


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def choose_devices(count: int) -> list[jax.Device]:
    """The first `count` devices, all for 0. Raises RequestError for more than there are."""
    available = jax.devices()
    if not 0 <= count <= len(available):
        raise RequestError("devices", f"{count} is out of range; give 1 to {len(available)}, or 0 for all")
    return available[: count or None]


def choose_dtype(dtype: str | None, platform: str) -> str:
    """`dtype`, by default bfloat16, on a CPU float32. Raises RequestError for any other."""
    if dtype is None:
        return "float32" if platform == "cpu" else "bfloat16"
    if dtype not in DTYPES:
        raise RequestError("dtype", f"{dtype!r} is not supported; give one of {', '.join(DTYPES)}")
    return dtype


def initial_noise(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """What diffusers' pipelines draw in float32 for `torch.Generator().manual_seed(seed)`."""
    generator = torch.Generator().manual_seed(seed)
    noise = randn_tensor(shape, generator=generator, dtype=torch.float32)
    return noise.numpy()  # type: ignore[no-any-return]
