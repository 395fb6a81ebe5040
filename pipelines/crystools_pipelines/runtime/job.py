"""What every pipeline does around its own stages: where it runs, what it loads, what it hands back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from jax.sharding import Mesh, NamedSharding
from numpy.typing import NDArray

from crystools_pipelines.errors import CheckpointError, RequestError
from crystools_pipelines.parallel.mesh import replicated
from crystools_pipelines.requests.fields import declaration
from crystools_pipelines.runtime.mag_ratios import Measured
from crystools_pipelines.runtime.platforms import use_what_is_here
from crystools_pipelines.runtime.programs import Component, identify
from crystools_pipelines.runtime.residency import Identity, residency
from crystools_pipelines.runtime.saving import save_or_keep
from crystools_pipelines.runtime.video import check_video
from crystools_pipelines.text.tokens import Tokenize, Tokens, tokens_of, warnings_of
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_pipelines.weights.hub import RepositoryFile
from crystools_pipelines.weights.inspection import check_unquantised
from crystools_pipelines.weights.loading import StatePlan, plan_state
from crystools_pipelines.weights.part import Part, built
from crystools_pipelines.weights.shapes import Shapes, abstract_state
from crystools_tpu import telemetry
from crystools_tpu.telemetry import StageName, Status
from crystools_tpu.thumbnails import thumbnail_of_frames

DTYPES = ("bfloat16", "float32")

Module = TypeVar("Module", bound=torch.nn.Module)
# On the devices or on the host: what a stage is handed may come from another run.
AnyArray: TypeAlias = jax.Array | NDArray[Any]
OnLatents: TypeAlias = Callable[[Callable[[], jax.Array]], None]
"""Is called after each denoising step with what makes the preview of its latents, its copy to the host under
way. Only that call, which must come at once, costs anything: who wants no picture of this step leaves it. The
preview is the solver's estimate of the clean latents as the transformer has them, float32: of an image
`[1, channels, rows, columns]`, of a video the first frame, `[1, channels, 1, rows, columns]`."""


@dataclass(frozen=True)
class Job:
    """Where a run's stages run: the checkpoint, the mesh its weights go to, and in which dtype.

    Stages reach the devices through it alone, so that a rehearsal can stand in for it (`planning.rehearsal`).
    `on_step` is called after each step of any stage; what it raises ends the run. `on_latents` is for who
    previews latents: see OnLatents.
    """

    checkpoint: Checkpoint
    mesh: Mesh
    dtype: str
    run: telemetry.RunRecorder
    on_step: Callable[[], None] = lambda: None
    on_latents: OnLatents | None = None
    _plans: dict[Identity, tuple[Any, StatePlan]] = field(default_factory=dict)

    @property
    def itemsize(self) -> int:
        """Bytes of an element of the job's dtype."""
        return int(jnp.dtype(self.dtype).itemsize)

    @property
    def everywhere(self) -> NamedSharding:
        """The sharding of what every device holds whole."""
        return replicated(self.mesh)

    def provide(self, parts: Sequence[Part[Any]]) -> None:
        """Downloads what is not here of these parts, in a `download` stage, and looks at all of it.

        Raises CheckpointError where something is not there, not whole, or more than the model makes use of.
        Of the weights only the headers are read; what is in the devices' memory was looked at before.
        """
        tokenizer = any(part.tokenized for part in parts)
        components = dict.fromkeys(part.component for part in parts)
        check_unquantised(self.checkpoint, components)
        try:
            if files := self.checkpoint.missing(components, tokenizer=tokenizer):
                self._download(files)
            if tokenizer:
                self._check_vocabulary(parts)
            for part in parts:
                identity = self._identity(part)
                if not residency.holds(identity, self.checkpoint.weights(part.component)):
                    self._plans[identity] = self._plan(part)
        except CheckpointError as error:
            if self.checkpoint.offline_reason is None:
                raise
            raise CheckpointError(f"{error}. {self.checkpoint.offline_reason}") from error

    def load(self, part: Part[Module]) -> Component[Module]:
        """The part's module and its weights on the mesh, in a `load` stage of its own.

        They stay in the devices' memory for the next run. In this one they are safe from being evicted until
        the stage after their loading has ended: a later stage that needs them too loads them again, which
        costs nothing while they are there.
        """
        with self.run.stage(StageName.LOAD, component=part.component):
            identity = self._identity(part)
            source = self.checkpoint.weights(part.component)

            def plan() -> tuple[Module, StatePlan]:
                return self._plans.pop(identity) if identity in self._plans else self._plan(part)

            in_use = partial(_needs, self.run, len(self.run.report.stages))
            loaded: Component[Module] = residency.retry_out_of_memory(
                residency.load, identity, source, plan, in_use
            )
            return loaded

    def _identity(self, part: Part[Any]) -> Identity:
        model, source = self.checkpoint.location, self.checkpoint.weights(part.component).identity
        dtype = part.dtype or self.dtype
        return Identity(model, part.component, source, identify(part.build), self.mesh, dtype)

    def _plan(self, part: Part[Module]) -> tuple[Module, StatePlan]:
        module, shapes = self._built(part)
        return module, plan_state(module, self.checkpoint.weights(part.component), shapes, part.leftovers)

    def _built(self, part: Part[Module]) -> tuple[Module, Shapes]:
        """The part's module, and what its weights will be."""
        module = built(part, self.checkpoint.folder(part.component))
        return module, abstract_state(module, self.mesh, part.rules, part.dtype or self.dtype)

    def _download(self, files: Sequence[RepositoryFile]) -> None:
        sizes = [file.size_bytes for file in files]
        total = None if None in sizes else sum(size for size in sizes if size is not None)
        with self.run.stage(StageName.DOWNLOAD, bytes_total=total) as stage:

            def progressed(count_bytes: int) -> None:
                stage.transferred(count_bytes)
                self.on_step()

            self.checkpoint.download(files, progressed)

    def _check_vocabulary(self, parts: Sequence[Part[Any]]) -> None:
        """Raises CheckpointError for a tokenizer with tokens that the text encoder has no embedding of."""
        tokens = len(self.checkpoint.tokenizer)
        for part in parts:
            config = self.checkpoint.config(part.component) if part.tokenized else {}
            known = config.get("vocab_size", config.get("text_config", {}).get("vocab_size"))
            if known is not None and tokens > known:
                raise CheckpointError(
                    f"{self.checkpoint.location}: its tokenizer has {tokens} tokens, its {part.component} "
                    f"knows {known}; they are not of one model: fetch both again"
                )

    def put(self, tree: Any, sharding: NamedSharding) -> Any:
        """The arrays of `tree` on the devices."""
        return jax.device_put(tree, sharding)

    def zeros(self, tree: Any) -> Any:
        """Arrays of zeros on the devices, of the shapes and with the shardings in `tree`."""
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding), tree)

    def tokens(self, tokenize: Tokenize, prompts: Sequence[str], length: int) -> Tokens:
        """Token ids and mask, int32 `[prompts, length]`, of the checkpoint's own tokenizer.

        Of a prompt that is longer, and is cut, the run warns. `prompts` are the prompt and the negative one.
        """
        tokenizer = self.checkpoint.tokenizer
        tokens = tokens_of(tokenize, prompts, tokenizer, length)
        for warning in warnings_of(tokenize, prompts, tokenizer, tokens):
            self.run.warn(warning)
        return tokens

    def fetch(self, array: jax.Array) -> jax.Array:
        """The array, with its copy to the host under way."""
        array.copy_to_host_async()
        return array

    def to_host(self, chunks: Sequence[jax.Array], axis: int = 0) -> NDArray[Any]:
        """The chunks, joined along `axis`."""
        return np.concatenate([np.asarray(chunk) for chunk in chunks], axis=axis)

    def keep_ratios(self, measured: Measured, ratios: Mapping[str, jax.Array]) -> None:
        """Keeps the ratios `[step, group]` of each transformer for MagCache; the run says where they are."""
        lists = {name: np.asarray(each).T for name, each in ratios.items()}
        if not all(np.isfinite(each).all() for each in lists.values()):
            self.run.warn("the step cache's ratios are not kept: not all of them are finite")
            return
        try:
            path = measured.keep({name: each.tolist() for name, each in lists.items()})
        except OSError as error:
            self.run.warn(f"the step cache's ratios could not be kept: {error}")
        else:
            self.run.warn(f"the step cache's ratios are measured; mag now takes those in {path}")

    def save(self, frames: NDArray[np.float32], out: Path | None, fps: int) -> None:
        """Writes the frames in a `save` stage, if `out` is given.

        Where that fails they are kept, and SaveError says where. The history gets a small picture of them.
        """
        if out is not None:
            with self.run.stage(StageName.SAVE):
                self.run.attach(thumbnail_of_frames(frames))
                save_or_keep(frames, out, fps, self.run.run_id)
                self.run.output = str(out.absolute())


def _needs(run: telemetry.RunRecorder, loaded: int) -> bool:
    """Whether `run` may still use what it loaded when it had `loaded` stages: none after them has ended."""
    report = run.report
    later = [stage for stage in report.stages[loaded:] if stage.name is not StageName.LOAD]
    return report.status is Status.RUNNING and all(stage.status is Status.RUNNING for stage in later)


def params_of(request: Any) -> Mapping[str, str | int | float | bool | None]:
    """The fields of the dataclass `request` that a report can hold; of those that are parsed, what is given.

    Several such values are one text, separated by commas.
    """
    params: dict[str, str | int | float | bool | None] = {}
    for each in fields(request):
        value = getattr(request, each.name)
        if (declared := declaration(each)) is not None and declared.parse is not None:
            if value:
                params[each.name] = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        elif isinstance(value, str | int | float | bool | None):
            params[each.name] = value
    return params


def check_output(out: Path | None, request: Any, fps: int) -> None:
    """Raises RequestError for a file that what is asked cannot be written to, before it is made."""
    if fps < 1:
        raise RequestError("fps", f"{fps} is too few; give 1 or more")
    if out is not None:
        check_video(out, getattr(request, "num_frames", 1), request.height, request.width, fps)


def choose_devices(count: int) -> list[jax.Device]:
    """The first `count` devices, all for 0. Raises RequestError for more than there are."""
    use_what_is_here()
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
