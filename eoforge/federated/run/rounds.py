"""When a round opens, whom it asks, and when it ends: decisions only, each a function of the run's state."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.federated.run.spec import MIN_MASKED_SILOS, threshold_of
from eoforge.federated.run.state import answered
from eoforge.federated.strategy import SiloInfo
from eoforge.nn.seeds import derive_seed

MAX_SAMPLES = 1 << 53
"""Counts that a float64 holds exactly."""


def modality_of(silo: pb.Silo) -> str:
    """The modality that a silo holds alone, or empty."""
    return silo.modalities[0] if len(silo.modalities) == 1 else ""


def suitable(spec: pb.RunSpec, silo: pb.Silo) -> bool:
    """Whether a silo may take part in a run."""
    data = spec.data
    return (
        (not spec.silos or silo.silo_id in spec.silos)
        and silo.samples >= max(data.min_samples, 1)
        and (not silo.methods or spec.method in silo.methods)
        and (not data.modalities or bool(set(data.modalities) & set(silo.modalities)))
    )


def members(spec: pb.RunSpec, silos: Iterable[pb.Silo]) -> list[pb.Member]:
    """All silos of the run in the order of their ids."""
    fit = sorted((s for s in silos if suitable(spec, s)), key=lambda s: s.silo_id)
    most = most_samples(spec.data, [s.samples for s in fit])
    return [pb.Member(silo=s.silo_id, samples=min(s.samples, most), modality=modality_of(s)) for s in fit]


def most_samples(data: pb.DataContract, registered: Sequence[int]) -> int:
    """What the run lets one silo claim: more would be weight that nobody can check.

    Args:
        data: The bounds.
        registered: Samples of all its silos.
    """
    most = data.max_samples or MAX_SAMPLES
    if data.max_sample_ratio and registered:
        most = min(most, max(1, int(data.max_sample_ratio * statistics.median(registered))))
    return most


def infos(round_: pb.Round) -> tuple[SiloInfo, ...]:
    """All silos of the run as strategies see them."""
    return tuple(SiloInfo(m.silo, m.samples, m.modality) for m in round_.members)


@dataclass(frozen=True)
class Choice:
    """Whom a round asks, and how many updates end it early."""

    silos: list[str]
    wanted: int


def choose(spec: pb.RunSpec, number: int, there: Sequence[pb.Member]) -> Choice | None:
    """The silos of round ``number`` out of those that are there; None while they are too few.

    The same silos give the same choice: it is drawn from (seed, round).
    """
    policy = spec.policy
    if len(there) < policy.min_silos or not _modalities_there(policy, there):
        return None
    if policy.selection in (pb.SELECTION_UNSPECIFIED, pb.SELECTION_ALL):
        return Choice([m.silo for m in there], len(there))
    wanted = max(policy.min_silos, math.ceil(policy.fraction * len(there)))
    asked = min(len(there), math.ceil(wanted * (1 + policy.over_selection)))
    weights = np.array([m.samples if policy.selection == pb.SELECTION_WEIGHTED else 1 for m in there], np.float64)
    rng = np.random.Generator(np.random.Philox(key=derive_seed(spec.seed, "selection", number)))
    drawn = rng.choice(len(there), size=asked, replace=False, p=weights / weights.sum())
    return Choice([there[i].silo for i in sorted(drawn)], wanted)


def quorum(spec: pb.RunSpec) -> int:
    """Least updates of a round."""
    return spec.policy.quorum or spec.policy.min_silos


def has_quorum(run: pb.Run) -> bool:
    """Whether the updates that are there suffice."""
    accepted = {a.silo for a in run.round.accepted}
    by_modality: dict[str, int] = {}
    for member in run.round.members:
        if member.silo in accepted:
            by_modality[member.modality] = by_modality.get(member.modality, 0) + 1
    several = by_modality.get("", 0)
    enough = all(by_modality.get(name, 0) + several >= least for name, least in run.spec.policy.modality_quorum.items())
    return enough and len(accepted) >= updates_needed(run)


def updates_needed(run: pb.Run) -> int:
    """Least updates of the current round.

    With masks never fewer than hide one another, whatever the quorum: of a sum of two each silo knows the other's.
    """
    least = quorum(run.spec)
    if run.spec.privacy.secure_aggregation:
        least = max(least, survivors_needed(run), MIN_MASKED_SILOS)
    return least


def survivors_needed(run: pb.Run) -> int:
    """Silos that must survive the current round of secure aggregation."""
    return threshold_of(run.spec.privacy.threshold, len(run.round.mask_keys))


def verdict(run: pb.Run, seconds_open: float) -> Literal["wait", "seal", "fail"]:
    """What to do with a round that collects updates.

    Args:
        run: Its state.
        seconds_open: Time since the round opened.
    """
    policy = run.spec.policy
    late = policy.HasField("deadline") and seconds_open >= policy.deadline.ToTimedelta().total_seconds()
    everyone = set(run.round.selected) <= answered(run)
    if has_quorum(run) and (late or everyone or len(run.round.accepted) >= run.round.wanted):
        return "seal"
    if late and policy.missed_quorum == pb.MISSED_QUORUM_FAIL:
        return "fail"
    if everyone and (late or not may_widen(run)):
        return "fail"  # nobody is left to wait for
    return "wait"


def may_widen(run: pb.Run) -> bool:
    """Whether a round that would miss its quorum may ask further silos."""
    # Masks are agreed among those who began.
    return run.spec.policy.missed_quorum == pb.MISSED_QUORUM_WAIT and not run.spec.privacy.secure_aggregation


def further(run: pb.Run, there: Sequence[pb.Member]) -> list[str]:
    """Silos to ask besides: those that are there and were not asked, once all that were have answered in vain."""
    if not (may_widen(run) and set(run.round.selected) <= answered(run) and not has_quorum(run)):
        return []
    return sorted({m.silo for m in there} - set(run.round.selected))


def averaged(measured: Iterable[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """Metrics averaged by samples, each over those who measured it."""
    sums: dict[str, tuple[float, float]] = {}
    for samples, metrics in measured:
        for name, value in metrics.items():
            if math.isfinite(value):
                total, weight = sums.get(name, (0.0, 0.0))
                sums[name] = (total + samples * value, weight + samples)
    return {name: total / weight for name, (total, weight) in sorted(sums.items()) if weight}


def target_reached(spec: pb.RunSpec, evaluation: dict[str, float]) -> bool:
    """Whether the run has become as good as it was asked to."""
    policy = spec.policy
    value = evaluation.get(policy.target_metric) if policy.target_metric else None
    if value is None:
        return False
    return value <= policy.target_value if policy.target_is_minimum else value >= policy.target_value


def _modalities_there(policy: pb.RoundPolicy, there: Sequence[pb.Member]) -> bool:
    return all(sum(m.modality in (name, "") for m in there) >= least for name, least in policy.modality_quorum.items())
