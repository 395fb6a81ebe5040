"""The plan of a transformer's steps by a rule of step caching: which run, which are skipped, at what cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crystools_pipelines.errors import RequestError
from crystools_pipelines.parallel import layout
from crystools_pipelines.requests.step_cache import (
    Calibrate,
    FirstBlockCache,
    MagCache,
    StepCache,
    TaylorSeerCache,
)
from crystools_pipelines.runtime import block_caches
from crystools_pipelines.runtime.job import Job
from crystools_pipelines.runtime.mag_ratios import skipped_steps
from crystools_pipelines.runtime.stages import Step, StepCost
from crystools_tpu.telemetry.events import CACHED

TAYLOR_WARM_UP = 3  # TaylorSeerCacheConfig.disable_cache_before_step


@dataclass(frozen=True)
class Plan:
    """A transformer's steps, and the cache on the devices that the first of them begins with."""

    steps: Sequence[Step]
    cache: Any = None


@dataclass(frozen=True)
class Denoiser:
    """A transformer as its steps are planned.

    `step` is a `denoising_step` without a cache. `groups` is how many groups of guidance branches decide for
    themselves. `tokens` and `width` are those of its hidden states, `output_shape` that of its outputs.
    `cost(branches, blocks)` is that of the first so many blocks, and of what is around them.
    """

    job: Job
    step: Callable[..., Any]
    branches: int
    groups: int
    tokens: int
    width: int
    output_shape: tuple[int, ...]
    cost: Callable[[int, int | None], StepCost]

    def plan(self, rule: StepCache | None, steps: int, ratios: Sequence[Sequence[float]] = ()) -> Plan:
        """So many steps by the rule; `ratios` are those that MagCache needs."""
        skips = planned_skips(rule, steps, ratios)
        match rule:
            case FirstBlockCache(threshold) if threshold:  # nothing is nearer than 0
                return self._first_block(threshold, steps)
            case MagCache() if any(skips):
                return self._mag(skips)
            case TaylorSeerCache() if any(skips):
                return self._taylor(skips)
            case Calibrate():
                return self._calibrated(steps)
            case _:  # what skips nothing keeps nothing
                return Plan([Step(self.step, self._full)] * steps)

    @property
    def _full(self) -> StepCost:
        return self.cost(self.branches, None)

    def _function(self, caching: Callable[..., Any], *args: Any) -> Callable[..., Any]:
        return partial(self.step, caching=partial(caching, *args) if args else caching)

    def _states(self) -> jax.ShapeDtypeStruct:
        job = self.job
        return block_caches.begin_states(job.mesh, job.dtype, self.branches, self.tokens, self.width)

    def _moving(self, cost: StepCost, elements: int) -> StepCost:
        """The cost with so many elements of a cache that are read or written besides."""
        return StepCost(cost.flops, cost.moved_bytes + elements * self.job.itemsize)

    def _residuals(self, cost: StepCost, count: int) -> StepCost:
        return self._moving(cost, count * self.branches * self.tokens * self.width)

    def _mag(self, skips: Sequence[bool]) -> Plan:
        full = Step(self._function(block_caches.note_residual, self.job.mesh), self._residuals(self._full, 1))
        cached_cost = self._residuals(self.cost(self.branches, 0), 1)
        cached = Step(self._function(block_caches.add_residual), cached_cost, kind=CACHED)
        return Plan([cached if skip else full for skip in skips], self.job.zeros(self._states()))

    def _calibrated(self, steps: int) -> Plan:
        mesh, groups, everywhere = self.job.mesh, self.groups, self.job.everywhere
        cache = block_caches.Calibration(
            self._states(),
            jax.ShapeDtypeStruct((steps, groups), jnp.float32, sharding=everywhere),
            jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere),
        )
        function = self._function(block_caches.calibrate, mesh, groups)
        return Plan([Step(function, self._residuals(self._full, 2))] * steps, self.job.zeros(cache))

    def _first_block(self, threshold: float, steps: int) -> Plan:
        mesh = self.job.mesh
        states = self._states()
        cache = block_caches.FirstBlock(
            self.job.put(np.float32(threshold), self.job.everywhere), *self.job.zeros((states, states))
        )
        step = Step(
            self._function(block_caches.first_block, mesh, self.groups),
            self._residuals(self._full, 3),
            if_skipped=self._residuals(self.cost(self.branches, 1), 2),
            if_partly_skipped=self._partly_skipped(),
        )
        return Plan([step] * steps, cache)

    def _partly_skipped(self) -> StepCost | None:
        """What a step costs in which one of two branches skips; None where there are none, or both run."""
        if not block_caches.runs_apart(self.job.mesh, self.groups):
            return None
        half = self.cost(1, None)
        first, first_half = self.cost(2, 1), self.cost(1, 1)
        together = StepCost(
            first.flops + half.flops - first_half.flops,
            first.moved_bytes + half.moved_bytes - first_half.moved_bytes,
        )
        return self._residuals(together, 3)

    def _taylor(self, skips: Sequence[bool]) -> Plan:
        branches, everywhere = layout.branches(self.job.mesh), self.job.everywhere
        factor = jax.ShapeDtypeStruct(self.output_shape, jnp.dtype(self.job.dtype), sharding=branches)
        age = jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)
        elements = prod(self.output_shape)
        full = Step(self._function(block_caches.taylor_update), self._moving(self._full, 3 * elements))
        cached = Step(
            self._function(block_caches.taylor_predict),
            self._moving(StepCost(0.0, 0.0), 2 * elements),
            kind=CACHED,
        )
        cache = self.job.zeros(block_caches.Taylor(factor, factor, age))
        return Plan([cached if skip else full for skip in skips], cache)


def planned_skips(
    rule: StepCache | None, steps: int, ratios: Sequence[Sequence[float]] = ()
) -> Sequence[bool]:
    """Which of a transformer's steps are known to be skipped before the run."""
    match rule:
        case MagCache():
            return skipped_steps(rule, ratios, steps)
        case TaylorSeerCache(interval):
            return [
                step >= TAYLOR_WARM_UP and (step - TAYLOR_WARM_UP - 1) % interval != 0
                for step in range(steps)
            ]
        case _:
            return [False] * steps


def check_step_cache(rule: StepCache | None, blocks: int) -> None:
    """Raises RequestError for a rule that skips nothing, whatever is asked with it."""
    if isinstance(rule, TaylorSeerCache) and rule.interval < 2:
        raise RequestError("step_cache", f"{rule} runs every step; give an interval of 2 or more")
    if isinstance(rule, FirstBlockCache) and blocks < 2:
        raise RequestError("step_cache", f"{rule} needs two blocks or more, and the transformer has {blocks}")
