"""Federated learning: what coordinator, silos and simulation share."""
