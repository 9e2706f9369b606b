"""Text of federated runs and events for people: rows and lines of the command line and of the console."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eoforge.api.federation.v1 import federation_pb2 as pb


def brief(run: pb.Run) -> dict[str, Any]:
    """One row for a run."""
    return {
        "run": run.run_id,
        "status": status_name(run.status),
        "round": run.round.number,
        "rounds": run.spec.policy.rounds,
        "method": run.spec.method,
        "strategy": run.spec.strategy,
        "epsilon": run.epsilon,
        "bundle": run.bundle_uri,
        "failure": run.failure,
    }


def status_name(number: Any) -> str:
    """Short name of a status: ``finished`` for ``RUN_STATUS_FINISHED``."""
    from eoforge.api.federation.v1 import federation_pb2 as pb

    return pb.RunStatus.Name(number).removeprefix("RUN_STATUS_").lower()


def phase_name(number: Any) -> str:
    """Short name of a phase: ``open`` for ``PHASE_OPEN``; empty between rounds."""
    from eoforge.api.federation.v1 import federation_pb2 as pb

    return "" if number == pb.PHASE_UNSPECIFIED else pb.Phase.Name(number).removeprefix("PHASE_").lower()


def line(event: pb.RunEvent) -> str:
    """One line for an event, without control characters, which silos could send."""
    kind = str(event.WhichOneof("event"))
    text = f"{event.at.ToDatetime():%H:%M:%S} {event.sequence:5d} {kind:<16} {_content(event, kind)}"
    return "".join(character if character.isprintable() else "?" for character in text)


def _content(event: pb.RunEvent, kind: str) -> str:
    if kind == "accepted":
        accepted = event.accepted
        return f"{accepted.silo}: {accepted.samples} samples, {accepted.size / 1e6:.1f} MB {_numbers(accepted.metrics)}"
    if kind == "refused":
        return f"{event.refused.silo}: {event.refused.reason}"
    if kind == "round_opened":
        return f"round {event.round_opened.number}: {', '.join(event.round_opened.selected)}"
    if kind == "round_closed":
        summary = event.round_closed.summary
        return f"round {summary.number}: {_numbers({**dict(summary.training), **dict(summary.evaluation)})}"
    if kind == "status_changed":
        return f"{status_name(event.status_changed.status)} {event.status_changed.reason}"
    if kind == "dropped":
        return f"{event.dropped.silo}: {event.dropped.reason}"
    if kind == "evaluated":
        return event.evaluated.silo
    return event.actor


def _numbers(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in sorted(values.items()))
