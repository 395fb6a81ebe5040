"""How Wan2.2 image-to-video lies on the mesh: as Wan2.1 does, and the VAE's encoder as its decoder."""

from jax.sharding import PartitionSpec as P

from crystools_pipelines.parallel.sharding import Rules

VAE_ENCODER: Rules = ((r"(encoder|quant_conv)\..*", P()),)
