"""Benchmarks: ours against a named peer in the same run, reported as ratios."""
