"""Benchmarks of the federation service."""
