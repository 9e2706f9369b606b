"""Tasks of silos as a function of the run's state."""

from __future__ import annotations

import pytest

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.federated.run import state
from eoforge.federated.run.rounds.tasks import RoundView, TaskKey, open_task


def view(phase: int, **round_: object) -> RoundView:
    """A masked run in round 2; silos a, b, c were asked, b has answered everything, c is in no sealed set."""
    run = pb.Run(status=pb.RUN_STATUS_RUNNING, sequence=9)
    run.spec.privacy.secure_aggregation = True
    run.round.CopyFrom(
        pb.Round(
            number=2,
            phase=phase,  # type: ignore[arg-type]
            selected="abc",
            shared="b",
            sealed="ab",
            unmasked="b",
            evaluators="ab",
            accepted=[pb.Accepted(silo="b", round=2)],
            evaluations=[pb.Evaluation(silo="b")],
            members=[pb.Member(silo=name) for name in "abcd"],
        )
    )
    run.round.mask_keys["b"].share_key = b"key"
    run.round.dropped.extend(round_.get("dropped", ""))  # type: ignore[arg-type]
    return RoundView(run)


@pytest.mark.parametrize(
    ("phase", "kind", "asked"),
    [
        (pb.PHASE_KEYS, pb.TASK_KIND_KEYS, "ac"),
        (pb.PHASE_SHARES, pb.TASK_KIND_SHARES, "ac"),
        (pb.PHASE_OPEN, pb.TASK_KIND_TRAIN, "ac"),
        (pb.PHASE_SEALED, pb.TASK_KIND_UNMASK, "a"),
        (pb.PHASE_EVALUATION, pb.TASK_KIND_EVALUATE, "a"),
        (pb.PHASE_UNSPECIFIED, None, ""),
    ],
)
def test_each_phase_asks_those_who_have_not_answered(phase: int, kind: int | None, asked: str) -> None:
    now = view(phase)
    assert {name for name in "abcd" if now.open_task(name)} == set(asked)
    assert all(now.open_task(name) == TaskKey(kind, 2) for name in asked)  # type: ignore[arg-type]
    assert view(phase, dropped=asked).open_task("a") is None


def test_who_works_on_what_is_over_is_told_so_once() -> None:
    now, work = view(pb.PHASE_UNSPECIFIED), TaskKey(pb.TASK_KIND_TRAIN, 2)
    assert now.next_task("c", work) == TaskKey(pb.TASK_KIND_ABANDON, 2)
    assert now.next_task("c", TaskKey(pb.TASK_KIND_ABANDON, 2)) is None
    assert now.next_task("b", work) is None
    assert now.next_task("c", None) is None


def test_a_task_is_withdrawn_before_the_next_one_is_given() -> None:
    now, work = view(pb.PHASE_EVALUATION), TaskKey(pb.TASK_KIND_TRAIN, 2)
    assert now.next_task("a", work) == TaskKey(pb.TASK_KIND_ABANDON, 2)
    assert now.next_task("a", TaskKey(pb.TASK_KIND_ABANDON, 2)) == TaskKey(pb.TASK_KIND_EVALUATE, 2)
    assert now.next_task("a", TaskKey(pb.TASK_KIND_EVALUATE, 2)) is None


def test_what_may_still_be_folded_in_is_not_called_off_unless_a_later_update_stands_for_it() -> None:
    run = pb.Run(status=pb.RUN_STATUS_RUNNING)
    run.spec.policy.late = pb.LATE_POLICY_FOLD
    run.round.CopyFrom(pb.Round(number=2, phase=pb.PHASE_OPEN, selected="a"))
    first, second = TaskKey(pb.TASK_KIND_TRAIN, 1), TaskKey(pb.TASK_KIND_TRAIN, 2)
    assert RoundView(run).next_task("a", first) == second
    run.round.accepted.append(pb.Accepted(silo="a", round=1))
    assert RoundView(run).next_task("a", second) == TaskKey(pb.TASK_KIND_ABANDON, 2)


def test_the_end_of_a_run_is_told_to_those_who_ask() -> None:
    run = pb.Run(status=pb.RUN_STATUS_FINISHED)
    assert RoundView(run).next_task("a", None) is None
    assert RoundView(run).next_task("a", None, True) == TaskKey(pb.TASK_KIND_END, 0)
    assert RoundView(run).next_task("a", TaskKey(pb.TASK_KIND_END, 0), True) is None


def test_what_an_event_did_is_there_when_its_number_is() -> None:
    """The journal's thread applies events while others read: a view is kept by the number of the event."""
    run = pb.Run(status=pb.RUN_STATUS_RUNNING, sequence=1)
    seen: list[int] = []
    original = state._FOLDS["dropped"]

    def fold(run: pb.Run, event: pb.RunEvent) -> None:
        seen.append(run.sequence)
        original(run, event)

    state._FOLDS["dropped"] = fold
    try:
        state.apply(run, pb.RunEvent(sequence=2, dropped=pb.Dropped(silo="a")))
    finally:
        state._FOLDS["dropped"] = original
    assert (seen, run.sequence) == ([1], 2)
    assert open_task(run, "a") is None
