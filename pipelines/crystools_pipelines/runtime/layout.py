"""How activations lie on the mesh. The axes are those of `runtime.mesh`."""

from collections.abc import Sequence

from jax.sharding import Mesh, NamedSharding, PartitionSpec

from crystools_pipelines.runtime.mesh import DATA, SEQUENCE, TENSOR


def branches(mesh: Mesh) -> NamedSharding:
    """Of what has the guidance branches first."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def tokens(mesh: Mesh, count: int) -> NamedSharding:
    """Of hidden states `[branch, token, channel]` between blocks, so that no norm is computed twice.

    Whole where a device's share of `count` tokens would not be a whole even number: XLA's compiler for v5p
    fails on odd shares in bfloat16 ("Bitcast cannot have different shape sizes", libtpu 0.0.42).
    """
    shares = mesh.shape[SEQUENCE] * mesh.shape[TENSOR]
    split = (SEQUENCE, TENSOR) if count % (2 * shares) == 0 else None
    return NamedSharding(mesh, PartitionSpec(DATA, split, None))


def pixels(mesh: Mesh, latent_shape: Sequence[int]) -> NamedSharding:
    """Of `[..., height, width]` in a VAE: columns over all devices, or rows, or whole.

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
    """Of frames `[frame, height, width, channel]`, split as `pixels` splits them."""
    rows, columns = pixels.spec[-2:] or (None, None)
    return NamedSharding(pixels.mesh, PartitionSpec(None, rows, columns, None))
