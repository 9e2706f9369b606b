"""Decisions about a round: pure functions of the run's state, the known silos and the time."""
