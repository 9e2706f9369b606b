"""Differential privacy at the silos: clipped norms, the silo's share of the noise, the budget."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import DataRefused
from eoforge.federated.privacy.clipping import NORM_BLOCK, clipped_and_noised, l2_norm, sum_of_squares
from eoforge.federated.privacy.policy import epsilon, exhausted

UPDATE = {
    "delta/w": np.array([3.0, 0.0, -4.0], np.float32),
    "delta/v": np.array([[12.0]], np.float32),
    "delta/count": np.array(7, np.int64),
    "delta/mask": np.array([True, False]),
}
"""Norm 13; counters and masks are no part of it."""


def task(clip: float, noise: float = 0.0, quorum: int = 1, mode: pb.DpMode = pb.DP_MODE_SILO) -> pb.Task:
    privacy = pb.PrivacyPolicy(dp=mode, clip_norm=clip, noise_multiplier=noise)
    return pb.Task(privacy=privacy, quorum=quorum)


@pytest.mark.parametrize(("clip", "norm"), [(6.5, 6.5), (13.0, 13.0), (100.0, 13.0)])
def test_a_silo_clips_the_norm_of_its_whole_update(clip: float, norm: float) -> None:
    protected = clipped_and_noised(UPDATE, task(clip))
    assert l2_norm(protected) == pytest.approx(norm, rel=1e-6)
    assert np.allclose(protected["delta/w"], UPDATE["delta/w"] * norm / 13, rtol=1e-6)  # the direction stays
    assert protected["delta/count"] == 7
    assert protected["delta/mask"].tolist() == [True, False]
    assert {name: array.dtype for name, array in protected.items()} == {n: a.dtype for n, a in UPDATE.items()}


@pytest.mark.parametrize(("quorum", "deviation"), [(1, 6.0), (4, 3.0), (9, 2.0)])
def test_the_noise_of_a_quorum_adds_up_to_the_central_one(quorum: int, deviation: float) -> None:
    """Variances add: each of q silos has the central deviation divided by the root of q."""
    zeros = {"delta/w": np.zeros(200_000, np.float32)}
    first, second = (clipped_and_noised(zeros, task(2.0, 3.0, quorum))["delta/w"] for _ in range(2))
    assert first.std() == pytest.approx(deviation, rel=0.02)
    assert abs(first.mean()) < 0.03 * deviation
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02  # never the same noise twice


def test_noise_is_added_to_what_is_clipped_not_clipped_with_it() -> None:
    large = {"delta/w": np.full(200_000, 1e3, np.float32)}
    protected = clipped_and_noised(large, task(2.0, 3.0, 4))["delta/w"]
    assert protected.std() == pytest.approx(3.0, rel=0.02)


@pytest.mark.parametrize("mode", [pb.DP_MODE_UNSPECIFIED, pb.DP_MODE_SERVER])
def test_silos_leave_updates_alone_in_other_modes(mode: pb.DpMode) -> None:
    protected = clipped_and_noised(UPDATE, task(1.0, 3.0, 1, mode))
    assert all(np.array_equal(protected[name], array) for name, array in UPDATE.items())


def test_an_update_that_cannot_be_clipped_is_refused() -> None:
    with pytest.raises(DataRefused, match="NaN or infinity"):
        clipped_and_noised({"delta/w": np.array([1.0, np.inf], np.float32)}, task(1.0))


def test_the_budget_ends_before_the_round_that_would_exceed_it() -> None:
    spec = pb.RunSpec(privacy=pb.PrivacyPolicy(dp=pb.DP_MODE_SERVER, noise_multiplier=2.0, delta=1e-5))
    spec.privacy.max_epsilon = epsilon(spec, 3) + 1e-9
    run = pb.Run(spec=spec)
    ended = []
    for _ in range(5):
        ended.append(exhausted(run))
        run.history.add()
    assert ended == [False, False, False, True, True]  # three rounds are paid for
    run.spec.privacy.max_epsilon = 0
    assert not exhausted(run)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_squares_are_summed_in_float64(dtype: type) -> None:
    values = np.random.default_rng(0).standard_normal((3, NORM_BLOCK // 2 + 1)).astype(dtype)
    assert sum_of_squares(values) == pytest.approx(math.fsum(float(v) ** 2 for v in values.flat), rel=1e-12)
    assert sum_of_squares(np.array([6e4], np.float16)) == float(np.float16(6e4)) ** 2, "beyond float16"
    assert sum_of_squares(np.empty(0, dtype)) == 0


def test_norms_ignore_integers_and_pass_infinity_on() -> None:
    assert l2_norm({"w": np.array([3.0]), "b": np.array([[4.0]], np.float32), "n": np.array([7])}) == 5
    assert l2_norm({"w": np.array([1e200])}) == math.inf
    assert math.isnan(l2_norm({"w": np.array([math.nan])}))
