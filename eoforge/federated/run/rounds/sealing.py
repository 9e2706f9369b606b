"""Sealing of a round: quorum, deadline, and silos that are asked in addition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.federated.run.spec import MIN_MASKED_SILOS, threshold_of
from eoforge.federated.run.state import answered


def quorum(spec: pb.RunSpec) -> int:
    """Smallest number of updates of a round."""
    return spec.policy.quorum or spec.policy.min_silos


def has_quorum(run: pb.Run) -> bool:
    """Whether the accepted updates of the current round suffice."""
    accepted = {a.silo for a in run.round.accepted}
    by_modality: dict[str, int] = {}
    for member in run.round.members:
        if member.silo in accepted:
            by_modality[member.modality] = by_modality.get(member.modality, 0) + 1
    several = by_modality.get("", 0)
    enough = all(by_modality.get(name, 0) + several >= least for name, least in run.spec.policy.modality_quorum.items())
    return enough and len(accepted) >= updates_needed(run)


def updates_needed(run: pb.Run) -> int:
    """Smallest number of updates of the current round.

    With masks it is never below the number of silos that hide one another, whatever the quorum: of a sum of two each
    silo knows the other's update.
    """
    least = quorum(run.spec)
    if run.spec.privacy.secure_aggregation:
        least = max(least, survivors_needed(run), MIN_MASKED_SILOS)
    return least


def survivors_needed(run: pb.Run) -> int:
    """Number of silos that must survive the current round of secure aggregation."""
    return threshold_of(run.spec.privacy.threshold, len(run.round.mask_keys))


def deadline_seconds(run: pb.Run) -> float:
    """Deadline of a phase, counted from its beginning; 0 for none."""
    return float(run.spec.policy.deadline.ToTimedelta().total_seconds())


def deadline_passed(run: pb.Run, seconds_open: float) -> bool:
    """Whether the current phase has been open for longer than its deadline."""
    return bool(deadline_seconds(run)) and seconds_open >= deadline_seconds(run)


def decide(run: pb.Run, seconds_open: float) -> Literal["wait", "seal", "fail"]:
    """Decision about a round that collects updates.

    Args:
        run: State of the run.
        seconds_open: Time since the round opened.
    """
    late = deadline_passed(run, seconds_open)
    everyone = set(run.round.selected) <= answered(run)
    if has_quorum(run) and (late or everyone or len(run.round.accepted) >= run.round.wanted):
        return "seal"
    if late and run.spec.policy.missed_quorum == pb.MISSED_QUORUM_FAIL:
        return "fail"
    if everyone and (late or not _may_add_silos(run)):
        return "fail"  # no further answer can come
    return "wait"


def additional_silos(run: pb.Run, connected: Sequence[pb.Member]) -> list[str]:
    """Connected silos to ask in addition: those not asked yet, once all others have answered without a quorum."""
    if not (_may_add_silos(run) and set(run.round.selected) <= answered(run) and not has_quorum(run)):
        return []
    return sorted({m.silo for m in connected} - set(run.round.selected))


def _may_add_silos(run: pb.Run) -> bool:
    # Masks are agreed among the silos that began the round.
    return run.spec.policy.missed_quorum == pb.MISSED_QUORUM_WAIT and not run.spec.privacy.secure_aggregation
