"""Benchmarks of archives, tables and loaders."""
