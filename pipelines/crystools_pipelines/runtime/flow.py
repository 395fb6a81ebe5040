"""The schedulers of flow matching: as a checkpoint configures them, and at the steps of a request."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from crystools_pipelines.errors import CheckpointError, RequestError
from crystools_pipelines.runtime.scheduler import scheduler_classes
from crystools_pipelines.weights.checkpoint import Checkpoint

FlowScheduler: TypeAlias = (
    UniPCMultistepScheduler | FlowMatchEulerDiscreteScheduler | DPMSolverMultistepScheduler
)

FLOW_SCHEDULERS: Final[Mapping[str, type[Any]]] = {
    "unipc": UniPCMultistepScheduler,
    "euler": FlowMatchEulerDiscreteScheduler,
    "dpm++": DPMSolverMultistepScheduler,
}

_FLOW: Final = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
_SAID_OTHERWISE: Final = {"shift", "flow_shift", *_FLOW}
_MEANT_FOR_ALL: Final = {"num_train_timesteps", "use_dynamic_shifting"}
# How the solver goes, which another does in its own way, and what the steps of flow matching do not heed.
_ITS_OWN_WAY: Final = {
    *("solver_order", "solver_type", "predict_x0", "disable_corrector", "algorithm_type"),
    *("lower_order_final", "euler_at_final", "timestep_spacing", "steps_offset"),
    *("beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr"),
    *("lambda_min_clipped", "variance_type"),
    *("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len"),
}
_RESPACED: Final = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")


def load_flow_scheduler(checkpoint: Checkpoint, name: str | None, shift: float | None = None) -> Any:
    """The checkpoint's scheduler, or the one of FLOW_SCHEDULERS that `name` asks for, as it is configured.

    `shift`, if given, replaces the one of the configuration. Raises CheckpointError where the checkpoint has
    none of them, RequestError where what it asks of its own is not what the other would do.
    """
    config, own, scheduler = scheduler_classes(checkpoint, FLOW_SCHEDULERS, name)
    changes: dict[str, Any] = {}
    if scheduler is not own:
        _check_heeded(config, own, name)
        shift = config.get("shift", config.get("flow_shift")) if shift is None else shift
        changes = {} if scheduler is FlowMatchEulerDiscreteScheduler else dict(_FLOW)
    if shift is not None:
        changes["shift" if scheduler is FlowMatchEulerDiscreteScheduler else "flow_shift"] = shift
    known = inspect.signature(scheduler.__init__).parameters
    return scheduler.from_config({key: value for key, value in config.items() if key in known}, **changes)


def _check_heeded(config: Mapping[str, Any], own: type[Any], name: str | None) -> None:
    """Raises RequestError where the checkpoint asks of its own scheduler what another does not do alike."""
    defaults = inspect.signature(own.__init__).parameters
    if own is not FlowMatchEulerDiscreteScheduler:
        for key, wanted in _FLOW.items():
            if config.get(key, defaults[key].default) != wanted:
                raise RequestError(
                    "scheduler", f"{name} is for flow matching, and the checkpoint's own is not; leave it out"
                )
    for key, value in config.items():
        understood = key in _SAID_OTHERWISE | _MEANT_FOR_ALL | _ITS_OWN_WAY
        if key in defaults and not understood and value != defaults[key].default:
            raise RequestError(
                "scheduler",
                f"the checkpoint's own has {key} = {value}, which {name} would not do alike; leave it out",
            )


def set_steps(
    scheduler: Any,
    steps: int,
    *,
    sigmas: Sequence[float] | None = None,
    timesteps: Sequence[int] | None = None,
    mu: float | None = None,
) -> None:
    """Sets the scheduler's steps as diffusers does, at these sigmas or timesteps where some are given.

    `mu` is the shift of a model whose shift depends on the size. Raises RequestError for sigmas or timesteps
    that the scheduler does not take, CheckpointError for a configuration that wants a `mu` and has none.
    """
    if scheduler.config.use_dynamic_shifting and mu is None:
        raise CheckpointError("scheduler_config.json asks for use_dynamic_shifting: set it to false")
    where: dict[str, Any] = {"num_inference_steps": steps}
    if sigmas is not None:
        _check_sigmas_taken(scheduler)
        where = {"sigmas": np.array(sigmas)}
    elif timesteps is not None:
        _check_timesteps_taken(scheduler)
        where = {"timesteps": timesteps, "sigmas": np.array(timesteps) / scheduler.config.num_train_timesteps}
    scheduler.set_timesteps(**where, **({} if mu is None else {"mu": mu}))


def _check_sigmas_taken(scheduler: Any) -> None:
    if isinstance(scheduler, DPMSolverMultistepScheduler):
        raise RequestError("sigmas", "dpm++ takes none; leave them out, or step with euler or unipc")
    if isinstance(scheduler, UniPCMultistepScheduler) and not scheduler.config.use_flow_sigmas:
        raise RequestError("sigmas", "the checkpoint's scheduler takes none; leave them out")
    for key in _RESPACED:
        if scheduler.config[key]:
            raise RequestError("sigmas", f"the checkpoint's scheduler has {key}; leave them out")


def _check_timesteps_taken(scheduler: Any) -> None:
    if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        raise RequestError("timesteps", "only euler takes them; step with euler, or give sigmas")
    for key in (*_RESPACED, "shift_terminal", "invert_sigmas"):
        if scheduler.config[key]:
            raise RequestError("timesteps", f"the checkpoint's scheduler has {key}; leave them out")
    if scheduler.config.shift != 1:
        raise RequestError(
            "timesteps",
            f"they would stay as they are, and their sigmas shift by {scheduler.config.shift:g};"
            " give a shift of 1, or sigmas",
        )
