"""Benchmarks of the Triton ops; run with ``python -m benchmarks.kernels``."""
