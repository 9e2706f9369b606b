"""Combinations of options that are refused before a run begins."""

from __future__ import annotations

import pytest

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import UsageError
from eoforge.federated.run.spec import check_spec
from eoforge.federated.strategies.registry import make_strategy
from eoforge.storage.tensorfile import TensorSpec

MODEL = {
    "encoders.s1.weight": TensorSpec((4, 3)),
    "head.weight": TensorSpec((4, 3)),
    "norm.weight": TensorSpec((4,), role="norm"),
    "norm.running_var": TensorSpec((4,), role="statistic"),
}
DP = {"dp": pb.DP_MODE_SERVER, "clip_norm": 1.0, "noise_multiplier": 1.0}
AT_SILOS = {**DP, "dp": pb.DP_MODE_SILO}
MEDIAN = {"robust": pb.ROBUST_MEDIAN}


def problems(name: str, privacy: dict[str, float], **options: str) -> str:
    policy = pb.RoundPolicy(rounds=1, min_silos=3)
    spec = pb.RunSpec(method="x", strategy=name, policy=policy, privacy=pb.PrivacyPolicy(**privacy))
    strategy = make_strategy(name, {"weighting": "uniform", **options})
    try:
        check_spec(spec, strategy, MODEL)
    except UsageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("name", "privacy", "options", "reason"),
    [
        ("fedavg", DP, {}, ""),
        ("fedavg", MEDIAN, {}, ""),
        ("feddyn", DP, {}, ""),
        # Its step is scaled by a number that every silo reports: one liar, or one member, moves the model at will.
        ("fednova", DP, {}, "a number that it reports"),
        ("fednova", MEDIAN, {}, "a number that it reports"),
        # Variances are no deltas: clipped to the norm of an update they would be next to nothing.
        ("fedbn", DP, {"unseen": "average"}, "unseen"),
        ("fedbn", DP, {"unseen": "none"}, ""),
        ("fedavg", DP, {"weighting": "examples"}, "weighting=uniform"),
        # A tensor that one of three silos sends would get a third of the noise's variance that epsilon is counted for.
        ("mm_fl", AT_SILOS, {}, "DP_MODE_SERVER"),
        ("mm_fl", DP, {}, ""),
        ("fedavg", AT_SILOS, {}, ""),
        ("fedavg", {"secure_aggregation": True, "clip_norm": 1.0}, {}, "max_update_norm"),
    ],
)
def test_what_bounds_a_silo_bounds_all_of_it(
    name: str, privacy: dict[str, float], options: dict[str, str], reason: str
) -> None:
    found = problems(name, privacy, **options)
    assert (reason in found) if reason else not found
