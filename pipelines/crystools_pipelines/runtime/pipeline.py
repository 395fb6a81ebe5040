"""A model as its stages: what each needs of a checkpoint, and what it makes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from numpy.typing import NDArray

from crystools_pipelines.costs import Cost
from crystools_pipelines.interop.functional import call
from crystools_pipelines.parallel import layout
from crystools_pipelines.parallel.mesh import make_mesh
from crystools_pipelines.parallel.mesh_shape import MeshShape, legal_shapes
from crystools_pipelines.requests.request import Request as AnyRequest
from crystools_pipelines.requests.request import Size as PixelSize
from crystools_pipelines.requests.step_cache import MagCache, TaylorSeerCache
from crystools_pipelines.runtime.block_caches import Calibration
from crystools_pipelines.runtime.denoising import denoising_step, with_room
from crystools_pipelines.runtime.job import AnyArray, Job
from crystools_pipelines.runtime.mag_ratios import Measured, Ratios
from crystools_pipelines.runtime.previews import Preview
from crystools_pipelines.runtime.programs import Component
from crystools_pipelines.runtime.stages import (
    StepCost,
    Turn,
    guided_cost,
    run_denoising,
    run_once,
    run_turns,
)
from crystools_pipelines.runtime.step_caching import Denoiser, check_step_cache, planned_skips
from crystools_pipelines.text.tokens import Tokenize
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_pipelines.weights.inspection import Size, check_classes, check_components, check_sizes
from crystools_pipelines.weights.part import Part
from crystools_tpu.telemetry import StageName, StageWork

Config: TypeAlias = Mapping[str, Any]
Decoding: TypeAlias = tuple[Sequence[Turn], NamedSharding, NamedSharding]
"""The turns of a VAE, and the shardings of what they give and of what each hands on to the next."""
Request = TypeVar("Request", bound=AnyRequest)
Prepared = TypeVar("Prepared")


@dataclass(frozen=True)
class Phase:
    """Consecutive denoising steps by one transformer. `guidance_scale` may have one for each step."""

    component: str
    steps: int
    guidance_scale: float | NDArray[np.float32]


@dataclass(frozen=True)
class Denoising:
    """What a run of the denoiser begins with, on the host.

    `schedule` and `solver` are as `denoising_step` takes them, and `noises`, where the solver draws any, what
    it adds in each step.
    """

    phases: Sequence[Phase]
    schedule: Any
    solver: Any
    noises: Iterable[NDArray[np.float32]] | None = None


class Pipeline(ABC, Generic[Request, Prepared]):
    """A model as `run.generate`, a rehearsal and the model's nodes call it, each by its own job.

    A family says what differs, in the attributes and the abstract methods; there is no state. The checks
    raise CheckpointError for a checkpoint that the model cannot run, `mesh` and `prepare` RequestError for
    what is asked and cannot be served, both naming the remedy.
    """

    model: ClassVar[str]
    """The model's id in MODELS."""
    most_branches: ClassVar[int] = 2
    """How many guidance branches a request may have."""
    split_components: ClassVar[Sequence[str]] = ("transformer", "text_encoder")
    """The components whose configurations `widths` reads."""

    tokenize: ClassVar[Tokenize]
    """Prompts to the tokens that its text encoder was trained with."""
    max_tokens: ClassVar[int]
    """How many tokens the text encoder takes: longer prompts are cut, others padded."""
    text_width: ClassVar[str]
    """What the transformer's configuration calls the width of the embeddings."""
    embed: ClassVar[Callable[..., jax.Array]] = staticmethod(call)
    """`embed(encoder, weights, ids, mask)` is the embeddings `[prompts, tokens, width]`."""
    predict: ClassVar[Callable[..., jax.Array]]
    """`predict(transformer, mesh, dtype, weights, sample, timestep, guidance, embeddings, condition)`."""
    advance: ClassVar[Callable[..., Any]]
    """The solver's state after a step, as `denoising_step` has it."""
    text_cost: ClassVar[Callable[..., Cost]]
    """`text_cost(config, prompts, tokens)` is the cost of the text encoder, padding included."""
    step_cost: ClassVar[Callable[..., Cost]]
    """`step_cost(config, latent_shape, tokens)` is the cost of a transformer on a sample for each branch."""
    hidden_size: ClassVar[Callable[..., tuple[int, int]]]
    """`hidden_size(config, latent_shape)` is how many tokens a transformer makes of latents, and how wide."""
    step_cache_by_branch: ClassVar[bool] = False
    """Whether each guidance branch decides for itself which blocks to skip, as where diffusers' pipeline runs
    them one after the other; or all at once, as where it runs them as one batch."""
    step_cache_news: ClassVar[Mapping[type, str]] = {}
    """What a run by a rule of step caching says of it, by the rule's class."""

    def check(self, checkpoint: Checkpoint) -> None:
        """Looks at the configurations of all that a run loads."""
        check_components(self.model, checkpoint)
        self.check_vae(checkpoint)
        self.check_denoiser(checkpoint)

    def check_vae(self, checkpoint: Checkpoint) -> None:
        """Refuses the VAE of another model."""
        check_classes(self.model, checkpoint, ["vae"])
        check_sizes(self.model, checkpoint, self.vae_sizes(checkpoint.config("vae")))

    def check_denoiser(self, checkpoint: Checkpoint) -> None:
        """Refuses a transformer that takes or gives something else than the model's."""
        check_classes(self.model, checkpoint, ["transformer", "text_encoder"])
        check_sizes(self.model, checkpoint, self.denoiser_sizes(checkpoint))

    @abstractmethod
    def vae_sizes(self, config: Config) -> list[Size]:
        """The sizes in the VAE's configuration that the model takes for granted."""

    @abstractmethod
    def denoiser_sizes(self, checkpoint: Checkpoint) -> list[Size]:
        """The sizes of transformer and text encoder that the model takes for granted."""

    @abstractmethod
    def widths(self, checkpoint: Checkpoint) -> tuple[int, ...]:
        """The sizes that a mesh's `tensor` splits."""

    def embedding_width(self, checkpoint: Checkpoint) -> int:
        """The width of the embeddings that the transformer takes."""
        width: int = checkpoint.config("transformer")[self.text_width]
        return width

    def mesh(
        self,
        devices: Sequence[jax.Device],
        checkpoint: Checkpoint,
        branches: int | None = None,
        shape: MeshShape | None = None,
    ) -> Mesh:
        """The devices as the stages use them, for so many guidance branches (the most by default)."""
        check_classes(self.model, checkpoint, self.split_components)
        return make_mesh(
            devices,
            branches=self.most_branches if branches is None else branches,
            widths=self.widths(checkpoint),
            model=self.model,
            shape=shape,
        )

    def legal_meshes(self, checkpoint: Checkpoint, branches: int, devices: int) -> list[MeshShape]:
        """The shapes that `mesh` takes for so many branches and devices."""
        return legal_shapes(devices, branches=branches, widths=self.widths(checkpoint))

    @abstractmethod
    def prepare(self, request: Request, checkpoint: Checkpoint) -> Prepared:
        """The schedule and whatever else the request needs beside weights; only configurations are read."""

    def first_blocks(self, config: Config, count: int) -> Config:
        """The configuration with only the first `count` of its blocks."""
        return {**config, "num_layers": count}

    def check_step_cache(
        self, request: Any, checkpoint: Checkpoint, components: Sequence[str] = ("transformer",)
    ) -> None:
        """Raises RequestError where these transformers cannot skip steps as the request asks."""
        for component in components:
            config = checkpoint.config(component)
            blocks = config["num_layers"] + config.get("num_single_layers", 0)
            check_step_cache(request.step_cache, blocks)
        self._ratios(request, checkpoint, components)

    def _ratios(
        self, request: Any, checkpoint: Checkpoint, components: Sequence[str]
    ) -> tuple[Ratios, str | None]:
        """What MagCache needs, and what is to be said of it; nothing where another rule is asked for."""
        if not isinstance(request.step_cache, MagCache):
            return {}, None
        return Measured(self.model, checkpoint, request.loras).find(components)

    @abstractmethod
    def text_encoder(self, mesh: Mesh) -> Part[Any]:
        """The text encoder."""

    @abstractmethod
    def transformer(self, mesh: Mesh, component: str = "transformer") -> Part[Any]:
        """The transformer, or one of several."""

    def denoisers(self, mesh: Mesh, prepared: Prepared) -> list[Part[Any]]:
        """The transformers that `denoise` loads."""
        return [self.transformer(mesh)]

    @abstractmethod
    def decoder(self, mesh: Mesh) -> Part[Any]:
        """The part of the VAE that decodes."""

    def parts(self, mesh: Mesh, prepared: Prepared) -> list[Part[Any]]:
        """All that a run loads, in its order."""
        return [self.text_encoder(mesh), *self.denoisers(mesh, prepared), self.decoder(mesh)]

    def encode(self, job: Job, prompts: Sequence[str]) -> jax.Array:
        """Embeddings `[prompts, tokens, width]`, the guidance branches' split over the mesh."""
        encoder = job.load(self.text_encoder(job.mesh))
        cost = self.text_cost(job.checkpoint.config("text_encoder"), len(prompts), self.max_tokens)
        return run_once(
            job,
            StageName.TEXT_ENCODE,
            encoder,
            partial(_embedded, self.embed, encoder.module),
            *job.put(job.tokens(self.tokenize, prompts, self.max_tokens), job.everywhere),
            sharding=layout.branches(job.mesh),
            cost=StepCost.of(cost, job.itemsize),
        )

    def condition(self, job: Job, request: Request, prepared: Prepared) -> Any:
        """The arrays that the transformers see beside the latents, on the host; None where there are none."""
        return None

    @abstractmethod
    def denoising(self, request: Request, prepared: Prepared) -> Denoising:
        """The request's noise, schedule and phases."""

    def denoise(
        self, job: Job, request: Request, prepared: Prepared, embeddings: AnyArray, condition: Any
    ) -> jax.Array:
        """The final latents, float32, replicated. `embeddings` are those of the guidance branches.

        A phase's transformer need not be there any more when the next comes.
        """
        begin = self.denoising(request, prepared)
        schedule, solver, seen = job.put((with_room(begin.schedule), begin.solver, condition), job.everywhere)
        branches = job.put(embeddings, layout.branches(job.mesh))
        noises, preview = None, self.preview(request, prepared)
        if begin.noises is not None:
            noises = (job.put(noise, job.everywhere) for noise in begin.noises)
        ratios, news = self._ratios(request, job.checkpoint, [phase.component for phase in begin.phases])
        for said in (news, self.step_cache_news.get(type(request.step_cache))):
            if said is not None:
                job.run.warn(said)
        calibrated = {}
        for phase in begin.phases:
            name = phase.component
            loaded = job.load(self.transformer(job.mesh, name))
            denoiser = self._denoiser(job, name, loaded, branches.shape[0], solver.sample.shape)
            plan = denoiser.plan(request.step_cache, phase.steps, ratios.get(name, ()))
            scales = with_room(np.asarray(phase.guidance_scale, np.float32))
            guidance = job.put(scales, job.everywhere)
            constants = (schedule, guidance, branches, seen)
            solver, cache = run_denoising(
                job, name, loaded, solver, plan.steps, constants, noises, preview, plan.cache
            )
            if isinstance(cache, Calibration):
                calibrated[name] = cache.ratios
            del loaded, denoiser, plan, cache  # nothing of it is in the way of the next transformer
        if calibrated:
            job.keep_ratios(Measured(self.model, job.checkpoint, request.loras), calibrated)
        final: jax.Array = solver.sample
        return final

    def _denoiser(
        self, job: Job, name: str, loaded: Component[Any], branches: int, latent_shape: tuple[int, ...]
    ) -> Denoiser:
        config = job.checkpoint.config(name)

        def cost(branches: int, blocks: int | None) -> StepCost:
            some = config if blocks is None else self.first_blocks(config, blocks)
            return guided_cost(
                job.mesh,
                branches,
                job.itemsize,
                lambda share: self.step_cost(some, (share, *latent_shape[1:]), self.max_tokens),
            )

        predict = partial(self.predict, loaded.module, job.mesh, job.dtype)
        tokens, width = self.hidden_size(config, latent_shape)
        return Denoiser(
            job,
            partial(denoising_step, predict, self.advance),
            branches,
            branches if self.step_cache_by_branch else 1,
            tokens,
            width,
            (branches, *latent_shape[1:]),
            cost,
        )

    def preview(self, request: Request, prepared: Prepared) -> Preview | None:
        """What `job.on_latents` sees of the solver's state; None where nothing shows this model's latents."""
        return None

    def without_padding(self, request: Request, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """The final latents without those that become no pictures."""
        return latents

    @abstractmethod
    def decoding(
        self, mesh: Mesh, config: Config, decoder: Any, latent_shape: Any, size: PixelSize
    ) -> Decoding:
        """How `decoder`, of a VAE of this configuration, makes frames of latents of this shape.

        They may have padding.
        """

    def decode(self, job: Job, latents: AnyArray, size: PixelSize) -> NDArray[np.float32]:
        """The frames `[frames, height, width, 3]` in 0..1, on the host; `latents` may have padding."""
        loaded = job.load(self.decoder(job.mesh))
        config = job.checkpoint.config("vae")
        turns, sharding, cache_sharding = self.decoding(job.mesh, config, loaded.module, latents.shape, size)
        return run_turns(
            job,
            StageName.VAE_DECODE,
            loaded,
            job.put(latents, job.everywhere),
            turns,
            sharding=sharding,
            cache_sharding=cache_sharding,
        )

    @abstractmethod
    def latent_shape(self, request: Request) -> tuple[int, ...]:
        """The shape of the request's latents as the solver has them."""

    def steps(self, request: Any, prepared: Prepared) -> Sequence[tuple[str, int]]:
        """The transformers, and how many steps each takes."""
        return [("transformer", request.num_inference_steps)]

    def condition_work(self, checkpoint: Checkpoint, request: Request) -> Sequence[StageWork]:
        """What `condition` computes in stages."""
        return ()

    def work(self, mesh: Mesh, checkpoint: Checkpoint, request: Any, prepared: Prepared) -> list[StageWork]:
        """The stages of `run` that compute something, each with its FLOPs; only configurations are read."""
        prompts, shape = len(request.prompts), self.latent_shape(request)
        text = self.text_cost(checkpoint.config("text_encoder"), prompts, self.max_tokens)
        turns, _, _ = self.decoding(mesh, checkpoint.config("vae"), None, shape, request.size)

        steps = self.steps(request, prepared)
        ratios, _ = self._ratios(request, checkpoint, [component for component, _ in steps])

        def step_flops(config: Config) -> int:
            return self.step_cost(config, (request.branches, *shape[1:]), self.max_tokens).flops

        def flops(component: str, steps: int) -> float:
            config = checkpoint.config(component)
            skipped = sum(planned_skips(request.step_cache, steps, ratios.get(component, ())))
            blocks = self.first_blocks(config, 0)
            of_skipped = 0 if isinstance(request.step_cache, TaylorSeerCache) else step_flops(blocks)
            return float((steps - skipped) * step_flops(config) + skipped * of_skipped)

        return [
            StageWork(StageName.TEXT_ENCODE, None, 1, float(text.flops)),
            *self.condition_work(checkpoint, request),
            *(
                StageWork(StageName.DENOISE, component, count, flops(component, count))
                for component, count in steps
            ),
            StageWork(StageName.VAE_DECODE, None, len(turns), sum(turn.cost.flops for turn in turns)),
        ]

    def run(
        self, job: Job, request: Any, prepared: Prepared
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """All stages: the final latents without padding, and the frames, both on the host."""
        embeddings = self.encode(job, request.prompts)
        condition = self.condition(job, request, prepared)
        latents = self.denoise(job, request, prepared, embeddings, condition)
        frames = self.decode(job, latents, request.size)
        return self.without_padding(request, job.to_host([latents])), frames


def _embedded(embed: Callable[..., jax.Array], *args: Any) -> tuple[jax.Array, jax.Array]:
    """The embeddings, and whether all are finite."""
    embeddings = embed(*args)
    return embeddings, jnp.isfinite(embeddings).all()
