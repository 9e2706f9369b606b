"""Opening of a round: the silos that may take part, and the selection among them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import UsageError
from eoforge.federated.strategy import SiloInfo
from eoforge.nn.seeds import derive_seed

MAX_SAMPLES = 1 << 53
"""Largest sample count that a float64 holds exactly."""


@dataclass(frozen=True)
class Selection:
    """Silos that a round asks for updates.

    Attributes:
        silos: Their ids, sorted.
        wanted: Number of updates that ends the round early.
    """

    silos: list[str]
    wanted: int


def is_eligible(spec: pb.RunSpec, silo: pb.Silo) -> bool:
    """Whether a silo may take part in a run."""
    data = spec.data
    return (
        (not spec.silos or silo.silo_id in spec.silos)
        and silo.samples >= max(data.min_samples, 1)
        and (not silo.methods or spec.method in silo.methods)
        and (not data.modalities or bool(set(data.modalities) & set(silo.modalities)))
    )


def pinned(members: Sequence[pb.Member], run: pb.Run) -> list[pb.Member]:
    """Members of a run as they were when they became members: what a silo registers later counts in later runs."""
    known = {member.silo: member for member in run.round.members}
    return [known.get(member.silo, member) for member in members]


def members(spec: pb.RunSpec, silos: Iterable[pb.Silo]) -> list[pb.Member]:
    """Eligible silos of a run in the order of their ids, with their sample counts cut to the run's limit."""
    eligible = sorted((s for s in silos if is_eligible(spec, s)), key=lambda s: s.silo_id)
    limit = sample_limit(spec.data, [s.samples for s in eligible])
    return [
        pb.Member(
            silo=silo.silo_id,
            samples=min(silo.samples, limit),
            modality=_modality(silo),
            data_version=silo.data_version,
            trains_only=silo.HasField("validation_samples") and not silo.validation_samples,
        )
        for silo in eligible
    ]


def sample_limit(data: pb.DataContract, registered: Sequence[int]) -> int:
    """Largest sample count that a silo may claim: a weight that nobody can verify.

    Args:
        data: Bounds of the run.
        registered: Sample counts of all silos of the run. Their lower median counts: of two silos, the larger one would
            else bound itself.
    """
    limit = data.max_samples or MAX_SAMPLES
    if data.max_sample_ratio and registered:
        limit = min(limit, max(1, int(data.max_sample_ratio * statistics.median_low(registered))))
    return limit


def silo_infos(members: Iterable[pb.Member]) -> tuple[SiloInfo, ...]:
    """Members of a run as strategies see them."""
    return tuple(SiloInfo(m.silo, m.samples, m.modality) for m in members)


def silo_info(run: pb.Run, silo: str) -> SiloInfo:
    """One member of the current round as strategies see it.

    Raises:
        UsageError: The silo is no member of the round.
    """
    for info in silo_infos(run.round.members):
        if info.id == silo:
            return info
    raise UsageError(f"{silo} is no silo of the current round")


def selection_size(policy: pb.RoundPolicy, available: int) -> tuple[int, int]:
    """Number of silos to ask, and number of updates that ends the round early.

    Args:
        policy: Policy of the run.
        available: Number of connected silos.
    """
    if policy.selection in (pb.SELECTION_UNSPECIFIED, pb.SELECTION_ALL):
        return available, available
    wanted = max(policy.min_silos, math.ceil(policy.fraction * available))
    return min(available, math.ceil(wanted * (1 + policy.over_selection))), wanted


def select(spec: pb.RunSpec, number: int, connected: Sequence[pb.Member]) -> Selection | None:
    """Silos of round ``number``, drawn from (seed, round): equal candidates give an equal selection.

    Returns:
        The selection, or None while too few silos are connected.
    """
    policy = spec.policy
    if len(connected) < policy.min_silos or not _has_modalities(policy, connected):
        return None
    asked, wanted = selection_size(policy, len(connected))
    if asked == len(connected):
        return Selection([m.silo for m in connected], wanted)
    weights = np.array([m.samples if policy.selection == pb.SELECTION_WEIGHTED else 1 for m in connected], np.float64)
    rng = np.random.Generator(np.random.Philox(key=derive_seed(spec.seed, "selection", number)))
    drawn = rng.choice(len(connected), size=asked, replace=False, p=weights / weights.sum())
    return Selection([connected[i].silo for i in sorted(drawn)], wanted)


def _modality(silo: pb.Silo) -> str:
    """The only modality of a silo, or empty for a silo with several."""
    return silo.modalities[0] if len(silo.modalities) == 1 else ""


def _has_modalities(policy: pb.RoundPolicy, connected: Sequence[pb.Member]) -> bool:
    return all(
        sum(m.modality in (name, "") for m in connected) >= least for name, least in policy.modality_quorum.items()
    )
