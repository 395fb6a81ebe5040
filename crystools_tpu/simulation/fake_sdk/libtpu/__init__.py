"""Stands in for Google's libtpu in the child process of a simulation, and nowhere else."""

__version__ = "0.0.0"
