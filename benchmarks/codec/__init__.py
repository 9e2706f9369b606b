"""Benchmarks of the codec."""
