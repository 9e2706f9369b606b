"""Metrics of the federation service, besides those of every service."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

PHASE_SECONDS = Histogram(
    "eoforge_federation_phase_seconds",
    "Time that rounds spend collecting, reducing, evaluating.",
    ("phase",),
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200),
)
BYTES = Counter("eoforge_federation_bytes_total", "Bytes of tensors, up from silos and down to them.", ("direction",))
UPDATES = Counter("eoforge_federation_updates_total", "Answers of silos by what became of them.", ("verdict",))
STRAGGLERS = Counter("eoforge_federation_stragglers_total", "Silos that were asked and are not in the sealed set.")
ROUNDS = Counter("eoforge_federation_rounds_total", "Rounds that were reduced.")
EPSILON = Gauge("eoforge_federation_epsilon", "Epsilon spent, by run with differential privacy.", ("run",))
RUNS = Gauge("eoforge_federation_runs", "Unfinished runs that this coordinator acts for.")
CONNECTED = Gauge("eoforge_federation_silos_connected", "Silos that watch for tasks.")
LEASES_LOST = Counter("eoforge_federation_leases_lost_total", "Runs that another coordinator took.")
