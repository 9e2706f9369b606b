"""Verdicts on updates as functions of the run's state."""

from __future__ import annotations

import pytest

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.federated.run.rounds import updates
from eoforge.federated.run.rounds.tasks import TaskKey

RETAINED = 2


def run_in_round_3(phase: int = pb.PHASE_OPEN, late: int = pb.LATE_POLICY_FOLD) -> pb.Run:
    """Round 3 asks silos a, b and c; a has an update in it, c was a straggler of rounds 1 and 2, b counted in both."""
    run = pb.Run(status=pb.RUN_STATUS_RUNNING)
    run.spec.policy.rounds, run.spec.policy.late = 5, late  # type: ignore[assignment]
    for number in (1, 2):
        run.history.add(number=number, silos="ab", stragglers="c")
    accepted = [pb.Accepted(silo="a", round=3, digest="x")]
    run.round.CopyFrom(pb.Round(number=3, phase=phase, selected="abc", accepted=accepted))  # type: ignore[arg-type]
    return run


@pytest.mark.parametrize(
    ("silo", "number", "reason"),
    [
        ("b", 3, None),
        ("c", 2, None),
        ("c", 1, None),
        ("b", 4, "has not begun"),
        ("b", 0, "has not begun"),
        ("d", 2, "did not ask d"),
        ("a", 2, "round 3 has an update of this silo already"),
    ],
)
def test_an_open_round_takes_its_own_updates_and_late_ones_of_stragglers(
    silo: str, number: int, reason: str | None
) -> None:
    found = updates.too_late(run_in_round_3(), silo, number, RETAINED)
    assert found is None if reason is None else reason in str(found)


def test_between_rounds_a_late_update_counts_in_the_next_one_while_updates_are_retained() -> None:
    run = run_in_round_3(pb.PHASE_EVALUATION)
    assert updates.too_late(run, "b", 3, RETAINED) is None
    assert "too long ago" in str(updates.too_late(run, "c", 1, RETAINED))
    run.round.sealed.append("b")
    assert "has its update already" in str(updates.too_late(run, "b", 3, RETAINED))
    run.spec.policy.rounds = 3
    assert "was the last one" in str(updates.too_late(run, "c", 3, RETAINED))
    run.status = pb.RUN_STATUS_CANCELLED
    assert updates.too_late(run, "c", 3, RETAINED) == "the run has ended"


def test_without_folding_a_late_update_never_counts() -> None:
    run = run_in_round_3(late=pb.LATE_POLICY_DROP)
    assert "sealed without it" in str(updates.too_late(run, "c", 2, RETAINED))
    assert updates.known_verdict(run, "c", 2, "y", RETAINED) == updates.answer(
        pb.VERDICT_DROPPED, "round 2 was sealed without it"
    )


def test_a_repeated_answer_gets_the_verdict_of_the_first() -> None:
    run = run_in_round_3()
    run.round.refused.add(silo="b", round=3, digest="y", reason="NaN")
    verdicts = [updates.known_verdict(run, *key, RETAINED) for key in (("a", 3, "x"), ("a", 3, "z"), ("b", 3, "y"))]
    assert [v.verdict for v in verdicts if v] == [pb.VERDICT_ACCEPTED, pb.VERDICT_DROPPED, pb.VERDICT_REFUSED]
    assert updates.known_verdict(run, "b", 3, "another", RETAINED) is None
    counted = updates.known_verdict(run, "b", 1, "forgotten", RETAINED)  # histories of older versions have no digests
    assert counted == updates.answer(pb.VERDICT_ACCEPTED)


def test_another_update_of_a_closed_round_is_told_so() -> None:
    run = run_in_round_3()
    run.history[1].digests.extend(["1" * 16, "2" * 16])
    assert updates.counts_already(run, "b", 2, "2" * 64)
    assert updates.known_verdict(run, "b", 2, "2" * 64, RETAINED) == updates.answer(pb.VERDICT_ACCEPTED)
    for other in ("1" * 64, "2" * 15 + "3" * 49):
        assert not updates.counts_already(run, "b", 2, other)
        assert updates.known_verdict(run, "b", 2, other, RETAINED) == updates.answer(
            pb.VERDICT_DROPPED, updates.ANOTHER
        )
        assert updates.verdict_after(run, "b", 2, other, None, False).reason == updates.ANOTHER


def test_the_verdict_after_the_event_says_whether_the_update_is_in_time() -> None:
    run = run_in_round_3()
    assert updates.may_count(run, "c", 2, RETAINED)
    assert not updates.may_count(run, "a", 3, RETAINED)
    run.round.accepted.add(silo="c", round=2, digest="late")
    cases = {
        ("a", 3, "x", None, True): pb.VERDICT_ACCEPTED,
        ("c", 2, "late", None, True): pb.VERDICT_FOLDED,
        ("c", 2, "late", None, False): pb.VERDICT_ACCEPTED,  # sent twice at the same time
        ("b", 3, "y", None, False): pb.VERDICT_DROPPED,
        ("b", 3, "y", "NaN", True): pb.VERDICT_REFUSED,
        ("b", 3, "y", "NaN", False): pb.VERDICT_DROPPED,
    }
    assert {case: updates.verdict_after(run, *case).verdict for case in cases} == cases


def test_an_answer_to_a_closed_task_is_a_repeat_or_too_late() -> None:
    run = run_in_round_3(pb.PHASE_EVALUATION)
    run.round.evaluations.add(silo="a")
    task = TaskKey(pb.TASK_KIND_EVALUATE, 3)
    assert updates.closed_task_verdict(run, "a", task).verdict == pb.VERDICT_ACCEPTED
    assert updates.closed_task_verdict(run, "b", task) == updates.answer(pb.VERDICT_DROPPED, updates.TOO_LATE)
    assert updates.closed_task_verdict(run, "a", TaskKey(pb.TASK_KIND_EVALUATE, 2)).verdict == pb.VERDICT_DROPPED
    different = updates.closed_task_verdict(run, "a", task, same=False)
    assert different == updates.answer(pb.VERDICT_DROPPED, updates.ANOTHER_ANSWER)
