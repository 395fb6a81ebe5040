"""Simulated TPU machines, for `--simulate` and anybody's tests. This package imports none of its modules."""
