"""Outliers of a round: updates whose L2 norm is out of proportion to the norms of the others."""

from __future__ import annotations

import statistics

from eoforge.api.federation.v1 import federation_pb2 as pb

DEFAULT_RATIO = 30.0
"""Honest silos differ by how many steps they take: a factor of ten is usual in a first round."""
MIN_UPDATES = 3
"""Of two updates, nobody can say which one is out of proportion."""


def norm_ratio(spec: pb.RunSpec) -> float:
    """Largest L2 norm of an update, in medians of its round; 0 for no bound.

    There is none where updates are bounded in another way: by a robust centre, or by clipping. With differential
    privacy whether an update counts would depend on the others, which the accounting of epsilon does not cover.
    """
    privacy = spec.privacy
    if privacy.dp or privacy.secure_aggregation or privacy.robust:
        return 0.0
    return spec.data.max_norm_ratio if spec.data.HasField("max_norm_ratio") else DEFAULT_RATIO


def largest_outlier(run: pb.Run) -> pb.Refused | None:
    """Refusal of the accepted update with the largest norm, if that is an outlier; None otherwise.

    An unmoved majority (median 0) says nothing about the others.
    """
    ratio, accepted = norm_ratio(run.spec), run.round.accepted
    if not ratio or len(accepted) < MIN_UPDATES:
        return None
    median = statistics.median_low([update.norm for update in accepted])
    largest = max(accepted, key=lambda update: (update.norm, update.silo))
    if not median or largest.norm <= ratio * median:
        return None
    reason = (
        f"the update's L2 norm is {largest.norm:.6g}; the run takes {ratio:g} times the round's median, which is "
        f"{median:.6g} (data.max_norm_ratio)"
    )
    return pb.Refused(silo=largest.silo, round=largest.round, digest=largest.digest, reason=reason)
