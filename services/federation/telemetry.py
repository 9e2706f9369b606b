"""Metrics and spans of the federation service, in addition to those of every service."""

from __future__ import annotations

import hashlib

from opentelemetry import trace
from prometheus_client import Counter, Gauge, Histogram

from eoforge.api.federation.v1 import federation_pb2 as pb
from services._runtime.telemetry import TRACER

PHASES = ("deliver", "collect", "seal", "reduce", "publish", "evaluate")
"""Phases of a round.

Deliver: from its opening until the last silo has its task. Collect: from its opening until the set of updates is
sealed. Seal and publish: until the event is stored by which the set, or the model, is visible to all.
"""

PHASE_SECONDS = Histogram(
    "eoforge_federation_phase_seconds",
    f"Time of rounds by phase: {', '.join(PHASES)}.",
    ("phase",),
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200),
)
BYTES = Counter("eoforge_federation_bytes_total", "Bytes of tensors, up from silos and down to them.", ("direction",))
UPDATES = Counter("eoforge_federation_updates_total", "Answers of silos by what became of them.", ("verdict",))
STRAGGLERS = Counter("eoforge_federation_stragglers_total", "Silos that were asked and are not in the sealed set.")
ROUNDS = Counter("eoforge_federation_rounds_total", "Rounds that were reduced.")
EPSILON = Gauge("eoforge_federation_epsilon", "Epsilon spent, by run with differential privacy.", ("run",))
RUNS = Gauge("eoforge_federation_runs", "Runs under way, not paused, that this coordinator acts for.")
CONNECTED = Gauge("eoforge_federation_silos_connected", "Silos that watch for tasks.")
QUARANTINED = Gauge("eoforge_federation_quarantined", "Damaged runs and registrations that are set aside.")
LEADS = Gauge("eoforge_federation_leads", "1 while this coordinator acts, 0 while it stands by.")
LEASES_LOST = Counter("eoforge_federation_leases_lost_total", "Runs that another coordinator took.")


def phase(run: pb.Run, name: str, start: float, end: float) -> None:
    """Records one phase of the open round.

    The spans of a round make one trace, whichever coordinator records them: its id is drawn from run and round.

    Args:
        run: State of the run.
        name: One of :data:`PHASES`.
        start: Seconds since the epoch.
        end: Seconds since the epoch.
    """
    PHASE_SECONDS.labels(name).observe(max(end - start, 0.0))
    ids = hashlib.sha256(f"{run.run_id}/{run.created_at.ToNanoseconds()}/{run.round.number}".encode()).digest()
    round_ = trace.SpanContext(
        trace_id=int.from_bytes(ids[:16], "big") or 1,
        span_id=int.from_bytes(ids[16:24], "big") or 1,
        is_remote=True,
        trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
    )
    span = TRACER.start_span(
        f"federation.{name}",
        context=trace.set_span_in_context(trace.NonRecordingSpan(round_)),
        start_time=int(start * 1e9),
        attributes={"federation.run": run.run_id, "federation.round": run.round.number},
    )
    span.end(int(max(start, end) * 1e9))
