"""What every pipeline does around its own stages: where it runs, what it loads, what it hands back."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers import ModelMixin
from diffusers.utils.torch_utils import randn_tensor
from jax.sharding import Mesh, NamedSharding
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from crystools_pipelines.runtime.checkpoint import Checkpoint
from crystools_pipelines.runtime.compile_cache import default_compile_cache
from crystools_pipelines.runtime.component import Component, identify
from crystools_pipelines.runtime.errors import RequestError
from crystools_pipelines.runtime.mesh import replicated
from crystools_pipelines.runtime.out_of_memory import in_words
from crystools_pipelines.runtime.residency import Identity, on_behalf_of, residency
from crystools_pipelines.runtime.saving import save_or_keep
from crystools_pipelines.runtime.sharding import Rules
from crystools_pipelines.runtime.video import check_video
from crystools_pipelines.runtime.weights import StatePlan, plan_state
from crystools_tpu import telemetry
from crystools_tpu.telemetry import Forecast, RunReport, StageName, Status
from crystools_tpu.telemetry.events import Params

DTYPES = ("bfloat16", "float32")

Module = TypeVar("Module", bound=torch.nn.Module)
# On the devices or on the host: what a stage is handed may come from another run.
AnyArray: TypeAlias = jax.Array | NDArray[Any]
Tokens: TypeAlias = tuple[NDArray[np.int32], NDArray[np.int32]]
Tokenize: TypeAlias = Callable[[Sequence[str], PreTrainedTokenizerBase], Tokens]


@dataclass(frozen=True)
class Generation:
    """A finished video or image: `frames` float32 `[frames, height, width, 3]` in 0..1 (an image is one
    frame); `latents` float32 as the last denoising step left them; the run's report."""

    frames: NDArray[np.float32]
    latents: NDArray[np.float32]
    report: RunReport


@dataclass(frozen=True)
class Job:
    """Where a run's stages run: the checkpoint, the mesh its weights go to, and in which dtype.

    Stages reach the devices through it alone, so that a rehearsal can stand in for it (`runtime.rehearsal`).
    `on_step` is called after each step of any stage; what it raises ends the run.
    """

    checkpoint: Checkpoint
    mesh: Mesh
    dtype: str
    run: telemetry.Run
    on_step: Callable[[], None] = lambda: None

    @property
    def itemsize(self) -> int:
        """Bytes of an element of the job's dtype."""
        return int(jnp.dtype(self.dtype).itemsize)

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
    ) -> Component[Module]:
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
                return module, plan_state(
                    module, folder, mesh=self.mesh, rules=rules, dtype=chosen, float32=kept_float32(module)
                )

            identity = Identity(self.checkpoint.location, component, identify(build), self.mesh, chosen)
            in_use = partial(_needs, self.run, len(self.run.report.stages))
            loaded: Component[Module] = residency.with_room(residency.load, identity, folder, plan, in_use)
            return loaded

    def stage(self, name: StageName, **about: Any) -> AbstractContextManager[telemetry.Stage]:
        """A stage of the run, as `telemetry.Run.stage` takes it."""
        return self.run.stage(name, **about)

    def put(self, tree: Any, sharding: NamedSharding) -> Any:
        """The arrays of `tree` on the devices."""
        return jax.device_put(tree, sharding)

    def tokens(self, tokenize: Tokenize, prompts: Sequence[str], length: int) -> Tokens:
        """Token ids and mask, int32 `[prompts, length]`, of the checkpoint's own tokenizer."""
        return tokenize(prompts, AutoTokenizer.from_pretrained(self.checkpoint.folder("tokenizer")))

    def fetch(self, array: jax.Array) -> jax.Array:
        """The array, with its copy to the host under way."""
        array.copy_to_host_async()
        return array

    def to_host(self, chunks: Sequence[jax.Array], axis: int = 0) -> NDArray[Any]:
        """The chunks, joined along `axis`."""
        return np.concatenate([np.asarray(chunk) for chunk in chunks], axis=axis)

    def save(self, frames: NDArray[np.float32], out: Path | None, fps: int) -> None:
        """Writes the frames in a `save` stage, if `out` is given.

        Where that fails they are kept, and SaveError says where.
        """
        if out is not None:
            with self.run.stage(StageName.SAVE):
                save_or_keep(frames, out, fps, self.run.run_id)
                self.run.output = str(out)


def kept_float32(module: torch.nn.Module) -> Sequence[str]:
    """The components of parameters' names that stay float32 in any dtype, as diffusers names them."""
    # transformers has the same attribute, but for float16 alone.
    return (module._keep_in_fp32_modules or ()) if isinstance(module, ModelMixin) else ()


def _needs(run: telemetry.Run, loaded: int) -> bool:
    """Whether `run` may still use what it loaded when it had `loaded` stages: none after them has ended."""
    report = run.report
    later = [stage for stage in report.stages[loaded:] if stage.name is not StageName.LOAD]
    return report.status is Status.RUNNING and all(stage.status is Status.RUNNING for stage in later)


@contextmanager
def started_job(
    pipeline: str,
    params: Params,
    checkpoint: Checkpoint,
    mesh: Mesh,
    dtype: str | None = None,
    on_step: Callable[[], None] = lambda: None,
    forecast: Forecast | None = None,
) -> Iterator[Job]:
    """A run of `pipeline` with these parameters, of which `forecast` is expected, and where its stages run.

    `dtype` is by default bfloat16, on a CPU float32. Raises RequestError for any other, and OutOfMemoryError
    where a stage exhausts the devices' memory.
    """
    devices = list(mesh.devices.flat)
    dtype = choose_dtype(dtype, devices[0].platform)
    try:
        with (
            default_compile_cache(),
            telemetry.run(
                pipeline,
                model_id=checkpoint.location,
                params=params,
                devices=devices,
                forecast=forecast,
            ) as run,
            on_behalf_of(run.run_id),
            in_words(run),
        ):
            yield Job(checkpoint, mesh, dtype, run, on_step)
    finally:
        residency.free_leaving()


def params_of(request: Any) -> Mapping[str, str | int | float | bool | None]:
    """The fields of the dataclass `request` that a report can hold."""
    named = {field.name: getattr(request, field.name) for field in fields(request)}
    return {name: value for name, value in named.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def check_output(out: Path | None, request: Any, fps: int) -> None:
    """Raises RequestError for a file that what is asked cannot be written to, before it is made."""
    if fps < 1:
        raise RequestError("fps", f"{fps} is too few; give 1 or more")
    if out is not None:
        check_video(out, getattr(request, "num_frames", 1), request.height, request.width, fps)


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
