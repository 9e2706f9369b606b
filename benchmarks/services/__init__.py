"""Benchmarks of the services."""
