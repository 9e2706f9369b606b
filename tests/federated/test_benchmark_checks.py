"""Conclusions of the soak and of the comparison with peers: a lost update must be reported."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.federated.peers.flare import _seconds
from benchmarks.federated.soak import _lost_updates, _problems, _unacknowledged
from eoforge.api.federation.v1 import federation_pb2 as pb

GOOD = {
    "status": "RUN_STATUS_FINISHED",
    "rounds": 3,
    "memory_mb": [240, 250, 250],
    "disk_beyond_models_mb": [30, 40, 45],
}


def accepted(*numbers: int) -> list[dict[str, Any]]:
    return [{"round": number, "verdict": "VERDICT_ACCEPTED"} for number in numbers]


def rounds(*silos: str) -> list[pb.RoundSummary]:
    """Round i has the silos that the i-th string names by letters."""
    return [pb.RoundSummary(number=i, silos=list(who)) for i, who in enumerate(silos, 1)]


def test_an_acknowledged_update_that_is_in_no_sealed_set_is_lost() -> None:
    finished = rounds("ab", "a", "ab")
    assert _lost_updates(finished, {"a": accepted(1, 2, 3), "b": accepted(1, 2, 3)}) == ["b, round 2: VERDICT_ACCEPTED"]
    finished[2].late["b"] = 2  # it came late and counted in round 3
    assert not _lost_updates(finished, {"a": accepted(1, 2, 3), "b": accepted(1, 2, 3)})
    refused = {"b": [{"round": 2, "verdict": "VERDICT_REFUSED"}]}
    assert not _lost_updates(finished, refused)


def test_an_update_that_counted_without_an_acknowledgement_is_named() -> None:
    assert _unacknowledged(rounds("ab", "ab"), {"a": accepted(1, 2), "b": []}) == ["b, round 1"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rounds": 2}, "2 of 3 rounds"),
        ({"status": "RUN_STATUS_FAILED"}, "RUN_STATUS_FAILED"),
        ({"memory_mb": [240, 260, 300]}, "memory_mb grew from 240 to 300"),
        ({"disk_beyond_models_mb": [30, 90, 160]}, "disk_beyond_models_mb grew from 30 to 160"),
    ],
)
def test_a_soak_that_did_not_hold_says_what(change: dict[str, Any], says: str) -> None:
    assert not _problems(GOOD, 3, [], [])
    (found,) = _problems({**GOOD, **change}, 3, [], [])
    assert says in found
    assert _problems(GOOD, 3, [("a", 1)], []) == ["accepted twice: [('a', 1)]"]


def test_rounds_of_flare_are_read_off_its_log() -> None:
    log = """
2026-11-23 16:41:52,753 - FedAvg - INFO - [identity=x] - -----
                                Round 0 started.
2026-11-23 16:41:54,000 - FedAvg - INFO - [identity=x] - Aggregated 1/2 results
2026-11-23 16:41:55,253 - FedAvg - INFO - [identity=x] - Aggregated 2/2 results
2026-11-23 16:41:56,000 - FedAvg - INFO - [identity=x] - -----
                                Round 1 started.
2026-11-23 16:41:58,000 - FedAvg - INFO - [identity=x] - Aggregated 2/2 results
"""
    assert _seconds(log) == pytest.approx([2.5, 2.0])
