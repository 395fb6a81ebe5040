"""A model as its stages: what each needs of a checkpoint, and what it makes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from crystools_pipelines.parallel.mesh import make_mesh
from crystools_pipelines.parallel.mesh_shape import MeshShape, legal_shapes
from crystools_pipelines.requests.size import Size
from crystools_pipelines.runtime.job import AnyArray, Job
from crystools_pipelines.weights.checkpoint import Checkpoint
from crystools_pipelines.weights.inspection import check_classes, check_components
from crystools_pipelines.weights.part import Part

Request = TypeVar("Request")
Prepared = TypeVar("Prepared")


class Pipeline(ABC, Generic[Request, Prepared]):
    """What `run.generate`, a rehearsal and the nodes of a model call, each by its own job.

    It has no state. Its checks raise CheckpointError for a checkpoint that the model cannot run, `mesh` and
    `prepare` RequestError for what is asked and cannot be served, both naming the remedy.
    """

    model: ClassVar[str]
    """Its id in MODELS."""
    most_branches: ClassVar[int] = 2
    """How many guidance branches a request may have."""
    split_components: ClassVar[Sequence[str]] = ("transformer", "text_encoder")
    """The components whose configurations `widths` reads."""

    def check(self, checkpoint: Checkpoint) -> None:
        """Looks at the configurations of all that a run loads."""
        check_components(self.model, checkpoint)
        self.check_vae(checkpoint)
        self.check_denoiser(checkpoint)

    @abstractmethod
    def check_vae(self, checkpoint: Checkpoint) -> None:
        """Refuses the VAE of another model."""

    @abstractmethod
    def check_denoiser(self, checkpoint: Checkpoint) -> None:
        """Refuses a transformer that takes or gives something else than the model's."""

    @abstractmethod
    def widths(self, checkpoint: Checkpoint) -> tuple[int, ...]:
        """The sizes that a mesh's `tensor` splits."""

    @abstractmethod
    def embedding_width(self, checkpoint: Checkpoint) -> int:
        """The width of the embeddings that the transformer takes."""

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
        """What the request needs beside weights, such as its schedule; only configurations are read."""

    @abstractmethod
    def text_encoder(self, mesh: Mesh) -> Part[Any]:
        """The text encoder."""

    @abstractmethod
    def denoisers(self, mesh: Mesh, prepared: Prepared) -> list[Part[Any]]:
        """The transformers that `denoise` loads."""

    @abstractmethod
    def decoder(self, mesh: Mesh) -> Part[Any]:
        """The part of the VAE that decodes."""

    def parts(self, mesh: Mesh, prepared: Prepared) -> list[Part[Any]]:
        """All that a run loads, in its order."""
        return [self.text_encoder(mesh), *self.denoisers(mesh, prepared), self.decoder(mesh)]

    @abstractmethod
    def encode(self, job: Job, prompts: Sequence[str]) -> jax.Array:
        """Embeddings `[prompts, tokens, width]`, the guidance branches' split over the mesh."""

    def condition(self, job: Job, request: Request, prepared: Prepared) -> NDArray[np.float32] | None:
        """What the transformers see beside the latents, on the host; None where that is nothing."""
        return None

    @abstractmethod
    def denoise(
        self,
        job: Job,
        request: Request,
        prepared: Prepared,
        embeddings: AnyArray,
        condition: NDArray[np.float32] | None,
    ) -> jax.Array:
        """The final latents, float32, replicated. `embeddings` are those of the guidance branches."""

    def without_padding(self, request: Request, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """The final latents without those that become no pictures."""
        return latents

    @abstractmethod
    def decode(self, job: Job, latents: AnyArray, size: Size) -> NDArray[np.float32]:
        """The frames `[frames, height, width, 3]` in 0..1, on the host; `latents` may have padding."""

    def run(
        self, job: Job, request: Any, prepared: Prepared
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """All stages: the final latents without padding, and the frames, both on the host."""
        embeddings = self.encode(job, request.prompts)
        condition = self.condition(job, request, prepared)
        latents = self.denoise(job, request, prepared, embeddings, condition)
        frames = self.decode(job, latents, request.size)
        return self.without_padding(request, job.to_host([latents])), frames
