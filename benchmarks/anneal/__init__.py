"""Active learning from pairs against its baselines."""
