"""The programs that a Wan2.1 run executes, lowered from a checkpoint's configurations alone.

Each takes the devices, the checkpoint's folder and the request, as `runtime.aot` asks. Dtypes are a TPU's.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from diffusers import UniPCMultistepScheduler
from jax.sharding import Mesh

from crystools_pipelines.runtime import multistep
from crystools_pipelines.runtime.aot import Programs, abstract, abstract_state
from crystools_pipelines.runtime.checkpoint import Checkpoint
from crystools_pipelines.runtime.mesh import make_mesh, replicated
from crystools_pipelines.wan21 import sharding
from crystools_pipelines.wan21.request import WanRequest
from crystools_pipelines.wan21.text import MAX_TOKENS, build_text_encoder, encode
from crystools_pipelines.wan21.transformer import build_transformer, make_step

_DTYPE = "bfloat16"


def text_encode(devices: Sequence[jax.Device], folder: Path, request: WanRequest) -> Programs:
    """Both prompts to embeddings."""
    mesh = _mesh(devices, folder, request)
    encoder = build_text_encoder(folder / "text_encoder")
    weights = abstract_state(encoder, mesh, sharding.TEXT_ENCODER, _DTYPE)
    tokens = jax.ShapeDtypeStruct((request.branches, MAX_TOKENS), jnp.int32, sharding=replicated(mesh))
    program = jax.jit(partial(encode, encoder), out_shardings=(sharding.branches(mesh), replicated(mesh)))
    return (program.lower(weights, tokens, tokens),)


def denoise(devices: Sequence[jax.Device], folder: Path, request: WanRequest) -> Programs:
    """One denoising step, all guidance branches and the scheduler within."""
    mesh = _mesh(devices, folder, request)
    model = build_transformer(folder / "transformer", mesh)
    weights = abstract_state(model, mesh, sharding.TRANSFORMER, _DTYPE)
    host = replicated(make_mesh(jax.devices()[:1], branches=1, widths=()))
    scheduler = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    schedule = multistep.tabulate(scheduler, request.num_inference_steps, host)
    solver = multistep.start(schedule, np.zeros(request.latent_shape, np.float32), host)
    embeddings = jax.ShapeDtypeStruct(
        (request.branches, MAX_TOKENS, model.config.text_dim), _DTYPE, sharding=sharding.branches(mesh)
    )
    guidance = jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated(mesh))
    step = jax.jit(
        make_step(model, mesh, jnp.dtype(_DTYPE)), donate_argnums=2, out_shardings=replicated(mesh)
    )
    schedule, solver = abstract((schedule, solver), replicated(mesh))
    return (step.lower(weights, schedule, solver, embeddings, guidance, None),)


def _mesh(devices: Sequence[jax.Device], folder: Path, request: WanRequest) -> Mesh:
    source = Checkpoint(folder)
    widths = sharding.widths(source.config("transformer"), source.config("text_encoder"))
    return make_mesh(devices, branches=request.branches, widths=widths)
