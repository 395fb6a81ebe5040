"""A run of any model, from a request to a file. It alone knows of planning."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from crystools_pipelines.models import MODELS
from crystools_pipelines.parallel.mesh import shape_of
from crystools_pipelines.parallel.mesh_shape import MeshShape
from crystools_pipelines.planning.forecasting import kept_forecast
from crystools_pipelines.requests.fields import Role, names_of
from crystools_pipelines.runtime.compile_cache import default_compile_cache
from crystools_pipelines.runtime.job import (
    Job,
    OnLatents,
    check_output,
    choose_devices,
    choose_dtype,
    params_of,
)
from crystools_pipelines.runtime.out_of_memory import translating_out_of_memory
from crystools_pipelines.runtime.residency import on_behalf_of, residency
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_pipelines.weights.part import Part
from crystools_tpu import telemetry
from crystools_tpu.telemetry import RunReport, StageWork
from crystools_tpu.telemetry.events import MESH, Params


@dataclass(frozen=True)
class Generation:
    """A finished video or image: `frames` float32 `[frames, height, width, 3]` in 0..1 (an image is one
    frame); `latents` float32 as the last denoising step left them, without padding; the run's report."""

    frames: NDArray[np.float32]
    latents: NDArray[np.float32]
    report: RunReport


def generate(
    request: Any,
    *,
    checkpoint: str | Path,
    devices: int = 0,
    mesh: MeshShape | None = None,
    dtype: str | None = None,
    fps: int = 16,
    out: Path | None = None,
) -> Generation:
    """Generates what `request` asks of its model and, if `out` is given, writes it there.

    A video is written as `.mp4` with `fps` frames a second, an image as `.png`, both as `.npy` for the bare
    frames. `checkpoint` is a folder in diffusers' format or a hub id. `devices` is how many jax devices to
    use, 0 for all; `mesh` is how they share the work. `dtype` is that of text encoder and transformers, by
    default bfloat16, on a CPU float32; what a transformer keeps in float32 stays so, and a VAE is always in
    float32.

    Raises RequestError for an argument that cannot be served, CheckpointError for a checkpoint that we cannot
    run, OutOfMemoryError where a stage exhausts the devices' memory, and SaveError where the file cannot be
    written, which says where the frames are kept.
    """
    check_output(out, request, fps)
    whole = arranged(request, Checkpoint(checkpoint), choose_devices(devices), mesh)
    with started_run(
        request.model,
        params_of(request),
        whole.checkpoint,
        whole.mesh,
        whole.parts,
        request=request,
        work=whole.work,
        dtype=dtype,
    ) as job:
        latents, frames = whole.run(job)
        job.save(frames, out, fps)
    return Generation(frames, latents, job.run.report)


@dataclass(frozen=True)
class Whole:
    """All stages of a run before it starts: where they run, what they load, and what they are to compute.

    `checkpoint` has the request's LoRAs. `run(job)` runs the stages: the final latents without padding, and
    the frames, both on the host.
    """

    checkpoint: Checkpoint
    mesh: Mesh
    parts: Sequence[Part[Any]]
    work: Sequence[StageWork]
    run: Callable[[Job], tuple[NDArray[np.float32], NDArray[np.float32]]]


def arranged(
    request: Any,
    checkpoint: Checkpoint,
    devices: Sequence[jax.Device],
    mesh: MeshShape | None = None,
) -> Whole:
    """What `request` needs of a checkpoint that is fit for it; only configurations are read.

    Raises RequestError for what cannot be served, CheckpointError for a checkpoint that the model cannot run.
    """
    pipeline = MODELS[request.model].pipeline()
    pipeline.check(checkpoint)
    prepared = pipeline.prepare(request, checkpoint)
    checkpoint = checkpoint.with_loras(request.loras)
    placed = pipeline.mesh(devices, checkpoint, request.branches, mesh)
    return Whole(
        checkpoint,
        placed,
        pipeline.parts(placed, prepared),
        pipeline.work(placed, checkpoint, request, prepared),
        lambda job: pipeline.run(job, request, prepared),
    )


@contextmanager
def started_run(
    model: str,
    params: Params,
    checkpoint: Checkpoint,
    mesh: Mesh,
    parts: Sequence[Part[Any]] = (),
    *,
    request: Any = None,
    work: Sequence[StageWork] = (),
    dtype: str | None = None,
    on_step: Callable[[], None] = lambda: None,
    on_latents: OnLatents | None = None,
) -> Iterator[Job]:
    """A run of `model` with these parameters, and where its stages run; what was planned of `request` is its
    forecast, and `work` what its stages are to compute.

    `dtype` is by default bfloat16, on a CPU float32. `parts` are what the stages will load: it is all there
    and in order before the first of them. Raises RequestError for any other dtype, CheckpointError for what
    is wrong with a part, and OutOfMemoryError where a stage exhausts the devices' memory.
    """
    devices = list(mesh.devices.flat)
    content = names_of(MODELS[model].request_class(), Role.CONTENT)
    if mesh.size > 1:  # on one device there is no other
        params = {**params, MESH: str(shape_of(mesh))}
    forecast = None if request is None else kept_forecast(model, request, checkpoint, mesh, dtype)
    dtype = choose_dtype(dtype, devices[0].platform)
    try:
        with (
            default_compile_cache(),
            telemetry.run(
                model,
                model_id=checkpoint.location,
                params=params,
                content_params=[name for name in content if name in params],
                devices=devices,
                forecast=forecast,
                work=work,
            ) as run,
            on_behalf_of(run),
            translating_out_of_memory(run),
        ):
            job = Job(checkpoint, mesh, dtype, run, on_step, on_latents)
            job.provide(parts)
            yield job
    finally:
        residency.free_leaving()
