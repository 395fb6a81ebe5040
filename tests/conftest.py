"""Eight virtual CPU devices for every test that uses jax; set before jax is imported."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
