"""Decisions of a round as functions of its state, and a journal that gives the same state however it is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import NotFound
from eoforge.federated.run.journal import Journal
from eoforge.federated.run.rounds.opening import select
from eoforge.federated.run.rounds.sealing import decide, has_quorum
from eoforge.federated.run.rounds.steps import averaged, target_reached
from eoforge.federated.run.state import apply
from eoforge.storage.objects import ObjectStore


def member(name: str, samples: int = 10, modality: str = "") -> pb.Member:
    return pb.Member(silo=name, samples=samples, modality=modality)


def open_round(selected: str, accepted: str, wanted: int | None = None, **policy: object) -> pb.Run:
    defaults: dict[str, object] = {"rounds": 1, "min_silos": 2}
    run = pb.Run(spec=pb.RunSpec(policy=pb.RoundPolicy(**(defaults | policy))))  # type: ignore[arg-type]
    run.round.selected.extend(selected)
    run.round.members.extend(member(name) for name in selected)
    run.round.accepted.extend(pb.Accepted(silo=name, round=1) for name in accepted)
    run.round.wanted = len(selected) if wanted is None else wanted
    run.round.phase = pb.PHASE_OPEN
    return run


@pytest.mark.parametrize(
    ("run", "seconds", "expected"),
    [
        (open_round("abc", "ab"), 1.0, "wait"),
        (open_round("abc", "abc"), 1.0, "seal"),
        (open_round("abc", "ab", wanted=2), 1.0, "seal"),
        (open_round("abc", "ab", deadline={"seconds": 5}), 4.9, "wait"),
        (open_round("abc", "ab", deadline={"seconds": 5}), 5.1, "seal"),
        (open_round("abc", "a", deadline={"seconds": 5}), 5.1, "wait"),
        (open_round("abc", "a", deadline={"seconds": 5}, missed_quorum=pb.MISSED_QUORUM_FAIL), 5.1, "fail"),
        (open_round("abc", "a", quorum=1, deadline={"seconds": 5}), 5.1, "seal"),
    ],
)
def test_decisions(run: pb.Run, seconds: float, expected: str) -> None:
    assert decide(run, seconds) == expected


def test_a_round_that_nobody_can_save_fails() -> None:
    run = open_round("abc", "a")
    run.round.dropped.extend("bc")
    assert decide(run, 1.0) == "fail"


@pytest.mark.parametrize(("accepted", "expected"), [("ab", "wait"), ("abc", "seal")])
def test_a_masked_round_is_never_sealed_with_two(accepted: str, expected: str) -> None:
    """Of a sum of two each silo knows the other's update, whatever quorum and threshold say."""
    run = open_round("abc", accepted, min_silos=3, quorum=2, wanted=2)
    run.spec.privacy.secure_aggregation, run.spec.privacy.threshold = True, 2
    for name in "abc":
        run.round.mask_keys[name].CopyFrom(pb.MaskKeys())
    assert decide(run, 1.0) == expected


def test_a_quorum_by_modality_counts_silos_with_both() -> None:
    run = open_round("abc", "ab", modality_quorum={"s1": 1, "s2": 1})
    run.round.members[0].modality = "s1"
    assert has_quorum(run)  # b holds both
    run.round.members[1].modality = "s1"
    assert not has_quorum(run)


def test_selection_is_drawn_from_seed_and_round() -> None:
    connected = [member(f"s{i}", samples=1 + 1000 * (i == 3)) for i in range(10)]
    policy = pb.RoundPolicy(min_silos=2, selection=pb.SELECTION_FRACTION, fraction=0.3, over_selection=0.5)
    spec = pb.RunSpec(policy=policy, seed=7)
    first = select(spec, 1, connected)
    assert first is not None
    assert (len(first.silos), first.wanted) == (5, 3)
    assert select(spec, 1, connected) == first
    assert any(select(spec, n, connected) != first for n in range(2, 6))
    spec.policy.selection = pb.SELECTION_WEIGHTED
    assert all("s3" in select(spec, n, connected).silos for n in range(1, 9))  # type: ignore[union-attr]
    assert select(spec, 1, connected[:1]) is None


def test_metrics_are_averaged_by_samples_over_those_who_measured_them() -> None:
    measured = [(1, {"loss": 1.0}), (3, {"loss": 2.0, "f1": 0.5}), (5, {"loss": float("nan")})]
    assert averaged(measured) == {"loss": 1.75, "f1": 0.5}


def test_a_target_may_be_a_minimum() -> None:
    spec = pb.RunSpec(policy=pb.RoundPolicy(target_metric="loss", target_value=1.0, target_is_minimum=True))
    assert target_reached(spec, {"loss": 0.9})
    assert not target_reached(spec, {"loss": 1.1})
    assert not target_reached(spec, {"f1": 1.0})


def write_history(journal: Journal) -> None:
    journal.append(pb.RunEvent(created=pb.Created(run_id="r", model="m0")), "alice")
    journal.take("one")
    for number in (1, 2, 3):
        opened = pb.RoundOpened(number=number, selected=["a", "b"], wanted=2, phase=pb.PHASE_OPEN)
        journal.append(pb.RunEvent(round_opened=opened), "one")
        journal.append(pb.RunEvent(accepted=pb.Accepted(silo="a", round=number, metrics={"loss": 0.5})), "a")
        journal.append(pb.RunEvent(sealed=pb.Sealed(silos=["a"])), "one")
        journal.append(pb.RunEvent(reduced=pb.Reduced(objects={"model": f"m{number}"})), "one")
        journal.append(pb.RunEvent(round_closed=pb.RoundClosed(summary=pb.RoundSummary(number=number))), "one")
        journal.snapshot()


def test_snapshots_change_nothing_but_the_time_to_read(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    journal = Journal(store, "r")
    write_history(journal)
    journal.append(pb.RunEvent(dropped=pb.Dropped(silo="b")), "b")
    by_snapshot = Journal(store, "r").load()
    folded = pb.Run()
    for event in Journal(store, "r").events(0):
        apply(folded, event)
    assert by_snapshot == folded == journal.run
    assert [s.number for s in folded.history] == [1, 2, 3]
    assert folded.objects["model"] == "m3"
    assert len(list((tmp_path / "runs/r/snapshots").iterdir())) == 2


def test_a_journal_has_no_gaps(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not follow"):
        apply(pb.Run(), pb.RunEvent(sequence=2))
    with pytest.raises(NotFound, match="no run"):
        Journal(ObjectStore(str(tmp_path)), "nowhere").load()
