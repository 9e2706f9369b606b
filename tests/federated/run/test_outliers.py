"""Outliers of a round by the norms of its updates, and means that stay finite."""

from __future__ import annotations

import math

import pytest

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.federated.run.rounds.outliers import largest_outlier
from eoforge.federated.run.rounds.steps import averaged, next_step
from eoforge.federated.run.state import apply


def sealed_round(norms: list[float], ratio: float | None = None, **privacy: object) -> pb.Run:
    run = pb.Run(spec=pb.RunSpec(policy=pb.RoundPolicy(rounds=1, min_silos=2)), status=pb.RUN_STATUS_RUNNING)
    run.spec.privacy.CopyFrom(pb.PrivacyPolicy(**privacy))  # type: ignore[arg-type]
    if ratio is not None:
        run.spec.data.max_norm_ratio = ratio
    run.round.phase, run.round.wanted = pb.PHASE_OPEN, len(norms)
    for index, norm in enumerate(norms):
        silo = chr(ord("a") + index)
        run.round.selected.append(silo)
        run.round.accepted.add(silo=silo, round=1, digest=f"d{silo}", norm=norm)
    return run


@pytest.mark.parametrize(
    ("norms", "options", "outlier"),
    [
        ([1.0, 1.1, 3e38], {}, "c"),
        ([1.0, 3e38, 2e38, 0.9, 1.1], {}, "b"),
        ([1.0, 1.1, 29.0], {}, ""),
        ([0.05, 0.2, 1.0, 2.0, 4.0], {}, ""),  # an honest first round of silos of 1 to 80 times as many steps
        ([1.0, 1.1, 29.0], {"ratio": 10.0}, "c"),
        ([1.0, 1.1, 3e38], {"ratio": 0.0}, ""),
        ([1.0, 3e38], {}, ""),
        ([0.0, 0.0, 1.0], {}, ""),
        ([0.0, 0.0, 0.0], {"secure_aggregation": True}, ""),
        ([1.0, 1.1, 99.0], {"dp": pb.DP_MODE_SERVER}, ""),
        ([1.0, 1.1, 99.0], {"robust": pb.ROBUST_MEDIAN}, ""),
    ],
)
def test_an_update_out_of_proportion_is_refused_at_the_seal(
    norms: list[float], options: dict[str, float], outlier: str
) -> None:
    found = largest_outlier(sealed_round(norms, **options))
    assert (found.silo if found else "") == outlier


def test_outliers_are_refused_one_after_the_other_and_the_rest_is_sealed() -> None:
    run = sealed_round([1.0, 3e38, 2e38, 0.9, 1.1])
    refused = []
    while (step := next_step(run, lambda: ([], []), False, 0.0)).event is not None and "refused" in step.event:
        refused.append(step.event["refused"].silo)
        apply(run, pb.RunEvent(sequence=run.sequence + 1, **step.event))
    assert refused == ["b", "c"]
    assert "data.max_norm_ratio" in run.round.refused[0].reason
    assert step.event is not None
    assert list(step.event["sealed"].silos) == ["a", "d", "e"]


def test_without_a_quorum_after_the_refusal_the_run_fails() -> None:
    run = sealed_round([1.0, 3e38, 0.9])
    run.spec.policy.min_silos = 3
    step = next_step(run, lambda: ([], []), False, 0.0)
    assert step.event is not None
    apply(run, pb.RunEvent(sequence=1, **step.event))
    step = next_step(run, lambda: ([], []), False, 0.0)
    assert step.failure == "round 0 ended with 2 of 3 updates (1 refused, 0 gave up)"


def test_means_of_finite_values_are_finite() -> None:
    found = averaged([(1 << 53, {"f1": 1e308}), (3, {"f1": -1e308})])
    assert math.isfinite(found["f1"])
