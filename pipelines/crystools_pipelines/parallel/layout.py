"""How activations lie on the mesh. The axes are those of `parallel.mesh`."""

from collections.abc import Sequence

from jax.sharding import Mesh, NamedSharding, PartitionSpec

from crystools_pipelines.parallel.mesh import DATA, SEQUENCE, TENSOR
from crystools_pipelines.parallel.sharding import Rules, match


def branches(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays whose first axis is the guidance branches."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def tokens(mesh: Mesh) -> NamedSharding:
    """The sharding of hidden states `[branch, token, channel]` between blocks: no norm is computed twice."""
    return NamedSharding(mesh, PartitionSpec(DATA, (SEQUENCE, TENSOR), None))


def tokens_multiple(mesh: Mesh) -> int:
    """What the number of tokens is padded to: each device's share is of whole tiles, 16 rows of bfloat16.

    Of other shares XLA makes copies wherever devices exchange them, row by row; and its compiler for v5p
    fails on odd ones ("Bitcast cannot have different shape sizes", libtpu 0.0.42).
    """
    return 16 * int(mesh.shape[SEQUENCE] * mesh.shape[TENSOR])


def at_work(mesh: Mesh, rules: Rules, prefix: str, name: str) -> NamedSharding:
    """The sharding of a layer's parameter while the layer runs, by the rules for `prefix` and its name."""
    (spec,) = match(rules, [prefix + name]).values()
    return NamedSharding(mesh, spec)


def at_rest(mesh: Mesh, spec: PartitionSpec, shape: Sequence[int]) -> PartitionSpec:
    """The spec at rest of a matrix with this one at work: split over `data` and `sequence` as well.

    Its longest axis that is whole at work is, if that can be split evenly.
    """
    axes = (DATA, SEQUENCE)
    shares = mesh.shape[DATA] * mesh.shape[SEQUENCE]
    full_spec = [*spec, *[None] * (len(shape) - len(spec))]
    even = [axis for axis, taken in enumerate(full_spec) if taken is None and shape[axis] % shares == 0]
    if len(shape) < 2 or not even:
        return spec
    full_spec[max(even, key=lambda axis: shape[axis])] = axes
    return PartitionSpec(*full_spec)


def pixels(mesh: Mesh, latent_shape: Sequence[int]) -> NamedSharding:
    """The sharding of `[..., height, width]` in a VAE: columns over all devices, or rows, or whole.

    Where the latents of this shape can be split, the pixels can; convolutions exchange the seams.
    """
    every = (DATA, SEQUENCE, TENSOR)
    *_, height, width = latent_shape
    others = [None] * (len(latent_shape) - 2)
    if width % mesh.size == 0:
        return NamedSharding(mesh, PartitionSpec(*others, None, every))
    if height % mesh.size == 0:
        return NamedSharding(mesh, PartitionSpec(*others, every, None))
    return NamedSharding(mesh, PartitionSpec())


def frames(pixels: NamedSharding) -> NamedSharding:
    """The sharding of frames `[frame, height, width, channel]`, split as `pixels` splits them."""
    rows, columns = pixels.spec[-2:] or (None, None)
    return NamedSharding(pixels.mesh, PartitionSpec(None, rows, columns, None))
