"""Rules of a round: accepted, refused and late updates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.client.base import RemoteError
from eoforge.client.federation import FederationClient
from eoforge.federated.run.rounds import steps
from eoforge.storage.chunks import digest_of, file_manifest
from eoforge.storage.tensorfile import read_file, write_file
from tests.federated.quadratic import spec, write_model
from tests.services.federation.helpers import SILO_NAMES, ManualSilo, coordinator_of, deltas, start_run
from tests.services.support import Running


@pytest.fixture
def late_in_round_1(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A deadline that the first round has passed and no other ever does, however busy the machine is."""
    hour = {"seconds": 3600}
    monkeypatch.setattr(steps, "seconds_open", lambda run, now: 7200.0 if run.round.number == 1 else 0.0)
    return {"quorum": 1, "deadline": hour, "late": pb.LATE_POLICY_FOLD, "late_discount": 0.5}


@pytest.mark.parametrize(
    ("tensors", "answer", "reason"),
    [
        ({"delta/extra": np.zeros(1, np.float32)}, {}, "unexpected"),
        ({"delta/head.bias": np.zeros(8, np.float32)}, {}, "delta/head.bias"),
        ({"delta/head.bias": np.zeros(7, np.float64)}, {}, "float64"),
        ({"delta/head.bias": np.full(7, np.nan, np.float32)}, {}, "NaN"),
        ({"delta/head.bias": np.full(7, np.inf, np.float32)}, {}, "NaN"),
        ({"delta/head.bias": np.full(7, 1e6, np.float32)}, {}, "norm"),
        ({}, {"samples": 0}, "samples"),
        ({}, {"samples": 11}, "samples"),
        ({}, {"scalars": {"normaliser": float("nan")}}, "normaliser"),
        ({}, {"scalars": {"n" * 300: 1.0}}, "200 characters"),
        ({}, {"metrics": {"n" * 300: 1.0}}, "200 characters"),
        ({}, {"metrics": {"loss\x1b[2J": 1.0}}, "printable"),
        ({"delta/" + "n" * 5000: np.zeros(1, np.float32)}, {}, "unexpected"),
    ],
)
def test_a_bad_update_is_set_aside_and_the_silo_is_told(
    served: Running, client: FederationClient, tmp_path: Path, tensors: Any, answer: Any, reason: str
) -> None:
    bad = ManualSilo(served.target, tmp_path)
    bound = pb.DataContract(max_update_norm=1e3)
    run = start_run(client, [bad], tmp_path, data=bound, policy={"rounds": 1})
    told = bad.send(run, 1, deltas(**tensors), **answer)
    assert told.verdict == pb.VERDICT_REFUSED
    assert reason in told.reason
    list(client.watch(run))
    done = client.run(run)
    assert done.round.refused[0].reason == told.reason
    assert len(told.reason) <= 500  # it is kept with the run
    assert done.status == pb.RUN_STATUS_FAILED  # nobody else was asked: there is no quorum any more


def test_the_round_goes_on_without_a_bad_update(served: Running, client: FederationClient, tmp_path: Path) -> None:
    silos = [ManualSilo(served.target, tmp_path) for _ in range(3)]
    run = start_run(client, silos, tmp_path, policy={"rounds": 1, "quorum": 2})
    assert silos[0].send(run, 1, deltas(np.nan)).verdict == pb.VERDICT_REFUSED
    for silo in silos[1:]:
        assert silo.send(run, 1, deltas(3.0)).verdict == pb.VERDICT_ACCEPTED
    list(client.watch(run))
    assert client.run(run).history[0].stragglers == [silos[0].name]
    client.get_model(run, str(tmp_path / "got"))
    assert all(np.all(t == 3.0) for t in read_file(tmp_path / "got").values())


@pytest.mark.parametrize(
    ("strategy", "missing"), [("fednova", "normaliser"), ("scaffold", "control/"), ("feddc", "gradient/")]
)
def test_an_update_without_what_its_strategy_needs_is_refused_and_the_run_goes_on(
    served: Running, client: FederationClient, tmp_path: Path, strategy: str, missing: str
) -> None:
    silos = [ManualSilo(served.target, tmp_path) for _ in range(2)]
    run = start_run(client, silos, tmp_path, strategy=strategy, policy={"rounds": 1, "quorum": 1})
    told = silos[0].send(run, 1, deltas())
    assert (told.verdict, missing in told.reason) == (pb.VERDICT_REFUSED, True)
    second = {} if strategy == "fednova" else deltas(0.0)
    group = {"scaffold": "control", "feddc": "gradient"}.get(strategy, "")
    tensors = deltas() | {name.replace("delta", group): values for name, values in second.items()}
    silos[1].send(run, 1, tensors, scalars={"normaliser": 2.0})
    list(client.watch(run))
    done = client.run(run)
    assert (done.status, list(done.history[0].silos)) == (pb.RUN_STATUS_FINISHED, [silos[1].name]), done.failure


def test_finite_updates_that_overflow_together_fail_the_run_and_nothing_is_published(
    served: Running, client: FederationClient, tmp_path: Path
) -> None:
    silos = [ManualSilo(served.target, tmp_path) for _ in range(2)]
    run = start_run(client, silos, tmp_path, policy={"rounds": 2})
    for _ in range(2):
        for silo in silos:
            assert silo.send(run, client.run(run).round.number, deltas(3e38)).verdict == pb.VERDICT_ACCEPTED
        if client.run(run).round.number == 1:
            assert next(silos[0].tasks).round == 2
            assert next(silos[1].tasks).round == 2
    list(client.watch(run))
    done = client.run(run)
    assert (done.status, done.bundle_uri, done.round.number) == (pb.RUN_STATUS_FAILED, "", 2)
    assert "tensor 'model/head.bias' would hold NaN or infinity in float32" in done.failure
    client.get_model(run, str(tmp_path / "got"))
    assert all(np.isfinite(t).all() for t in read_file(tmp_path / "got").values())


def test_an_update_out_of_proportion_does_not_move_the_model(
    served: Running, client: FederationClient, tmp_path: Path
) -> None:
    silos = [ManualSilo(served.target, tmp_path) for _ in range(4)]
    run = start_run(client, silos, tmp_path, policy={"rounds": 1, "quorum": 3})
    for silo, value in zip(silos, (3e38, 1.0, 10.0, 4.0), strict=True):
        assert silo.send(run, 1, deltas(value)).verdict == pb.VERDICT_ACCEPTED
    list(client.watch(run))
    done = client.run(run)
    assert (done.status, done.history[0].refused) == (pb.RUN_STATUS_FINISHED, 1), done.failure
    assert list(done.history[0].silos) == sorted(silo.name for silo in silos[1:])
    client.get_model(run, str(tmp_path / "got"))
    assert all(np.all(t == 5.0) for t in read_file(tmp_path / "got").values())


def test_figures_that_are_not_finite_are_refused(served: Running, client: FederationClient, tmp_path: Path) -> None:
    silo = ManualSilo(served.target, tmp_path)
    run = start_run(client, [silo], tmp_path, policy={"rounds": 1, "evaluate_every": 1})
    silo.send(run, 1, deltas())
    assert next(silo.tasks).kind == pb.TASK_KIND_EVALUATE
    with pytest.raises(RemoteError, match="must be finite; f1"):
        silo.client.answer(run, 1, evaluation=pb.EvaluationAnswer(samples=1, metrics={"f1": float("inf")}))
    silo.client.answer(run, 1, evaluation=pb.EvaluationAnswer(samples=1, metrics={"f1": 0.5}))
    list(client.watch(run))
    assert dict(client.run(run).history[0].evaluation) == {"f1": 0.5}


def test_a_run_does_not_begin_with_a_model_that_is_not_finite(client: FederationClient, tmp_path: Path) -> None:
    write_file(tmp_path / "model", {"head.weight": np.array([1.0, np.nan], np.float32)})
    with pytest.raises(RemoteError, match=r"'head\.weight' of the initial model holds NaN") as caught:
        client.create_run(spec(client.put_model(str(tmp_path / "model"))))
    assert caught.value.remote_reason == "DATA_REFUSED"


def test_a_damaged_model_of_one_run_ends_that_run_alone(
    served: Running, client: FederationClient, tmp_path: Path
) -> None:
    silo = ManualSilo(served.target, tmp_path)
    bad = start_run(client, [silo], tmp_path)
    coordinator = coordinator_of(served)
    coordinator.store.put(f"runs/{bad}/objects/manifests/{client.run(bad).initial_model}", b"\xff")
    good = start_run(client, [silo], tmp_path)
    kinds = {}
    for task in silo.client.tasks():  # a silo that reconnects gets the open tasks of all its runs again
        kinds[task.run_id] = task.kind
        if len(kinds) == 2:
            break
    assert kinds == {bad: pb.TASK_KIND_END, good: pb.TASK_KIND_TRAIN}
    assert client.run(bad).status == pb.RUN_STATUS_FAILED
    assert "manifests" not in client.run(bad).failure
    client.cancel(good)


def test_one_answer_counts_and_a_repeat_is_harmless(served: Running, client: FederationClient, tmp_path: Path) -> None:
    silos = [ManualSilo(served.target, tmp_path) for _ in range(2)]
    run = start_run(client, silos, tmp_path)
    for _ in range(2):
        assert silos[0].send(run, 1, deltas(1.0)).verdict == pb.VERDICT_ACCEPTED
    assert silos[0].send(run, 1, deltas(2.0)).verdict == pb.VERDICT_DROPPED
    assert len(client.run(run).round.accepted) == 1


def test_an_update_wakes_those_who_watch_and_not_a_thousand_silos_that_wait_for_tasks(
    served: Running, client: FederationClient, tmp_path: Path
) -> None:
    silos = [ManualSilo(served.target, tmp_path) for _ in range(2)]
    run = start_run(client, silos, tmp_path)
    signal = coordinator_of(served).signal
    anything, task = signal.current(), signal.current_task()
    silos[0].send(run, 1, deltas())
    assert (anything.is_set(), task.is_set()) == (True, False)
    silos[1].send(run, 1, deltas())
    assert next(silos[0].tasks).round == 2
    assert task.is_set()
    client.cancel(run)


def test_the_deadline_seals_with_a_quorum_and_late_updates_are_dropped(
    served: Running, client: FederationClient, tmp_path: Path
) -> None:
    silos = [ManualSilo(served.target, tmp_path) for _ in range(2)]
    policy = {"quorum": 1, "deadline": {"seconds": 1}, "late": pb.LATE_POLICY_DROP}
    run = start_run(client, silos, tmp_path, policy=policy)
    silos[0].send(run, 1, deltas())
    for event in client.watch(run):
        if event.WhichOneof("event") == "sealed":
            assert list(event.sealed.silos) == [silos[0].name]
            break
    with pytest.raises(RemoteError, match="sealed without it"):
        silos[1].send(run, 1, deltas())
    assert next(silos[1].tasks).kind in (pb.TASK_KIND_ABANDON, pb.TASK_KIND_TRAIN)


def test_late_updates_count_less_where_they_are_folded_in(
    served: Running, client: FederationClient, tmp_path: Path, late_in_round_1: dict[str, Any]
) -> None:
    silos = [ManualSilo(served.target, tmp_path) for _ in range(2)]
    run = start_run(client, silos, tmp_path, policy=late_in_round_1)
    silos[0].send(run, 1, deltas(0.0))
    assert next(silos[0].tasks).round == 2
    assert silos[1].send(run, 1, deltas(3.0)).verdict == pb.VERDICT_FOLDED
    silos[0].send(run, 2, deltas(0.0))
    list(client.watch(run))
    client.get_model(run, str(tmp_path / "got"))
    # Weights 1 and 0.5: (0 * 1 + 3 * 0.5) / 1.5.
    assert all(np.allclose(t, 1.0) for t in read_file(tmp_path / "got").values())


def test_a_late_update_counts_for_the_round_it_was_trained_in_and_once(
    served: Running, client: FederationClient, tmp_path: Path, late_in_round_1: dict[str, Any]
) -> None:
    silos = [ManualSilo(served.target, tmp_path) for _ in range(2)]
    run = start_run(client, silos, tmp_path, policy={"rounds": 3, **late_in_round_1})
    silos[0].send(run, 1, deltas(0.0))
    assert next(silos[0].tasks).round == 2
    assert silos[1].send(run, 1, deltas(3.0)).verdict == pb.VERDICT_FOLDED
    silos[0].send(run, 2, deltas(0.0))
    assert next(silos[0].tasks).round == 3
    digest = digest_of(file_manifest(str(tmp_path / f"{silos[1].name}.safetensors")))
    again = [silos[1].client.answer(run, n, update=pb.UpdateAnswer(digest=digest, samples=5)) for n in (1, 2)]
    assert [a.verdict for a in again] == [pb.VERDICT_ACCEPTED, pb.VERDICT_DROPPED]
    client.cancel(run)


def test_a_silo_that_was_not_asked_cannot_fold_an_update_in(
    served: Running, client: FederationClient, tmp_path: Path
) -> None:
    silo, newcomer = ManualSilo(served.target, tmp_path), next(SILO_NAMES)
    policy = {"min_silos": 1, "rounds": 2, "late": pb.LATE_POLICY_FOLD, "late_discount": 0.5}
    model = client.put_model(write_model(tmp_path / "model.safetensors"))
    run = client.create_run(spec(model, policy=policy, silos=[silo.name, newcomer])).run_id
    assert next(silo.tasks).round == 1
    late = ManualSilo(served.target, tmp_path, name=newcomer)  # it joins while round 1 goes on without it
    silo.send(run, 1, deltas())
    assert next(late.tasks).round == 2
    with pytest.raises(RemoteError, match="did not ask"):
        late.send(run, 1, deltas(5.0))
    client.cancel(run)


def test_the_same_bad_update_is_set_aside_once(served: Running, client: FederationClient, tmp_path: Path) -> None:
    silos = [ManualSilo(served.target, tmp_path) for _ in range(2)]
    run = start_run(client, silos, tmp_path)
    first, second = (silos[0].send(run, 1, deltas(np.nan)) for _ in range(2))
    assert first == second
    assert len(client.run(run).round.refused) == 1
    client.cancel(run)


def test_a_late_update_that_finds_no_open_round_counts_in_the_next_one(
    served: Running, client: FederationClient, tmp_path: Path
) -> None:
    """The round is sealed by the first update and waits for evaluations when the second one comes."""
    silos = [ManualSilo(served.target, tmp_path) for _ in range(2)]
    policy = {
        "min_silos": 1, "selection": pb.SELECTION_FRACTION, "fraction": 0.5, "over_selection": 1.0,
        "late": pb.LATE_POLICY_FOLD, "late_discount": 0.5, "evaluate_every": 1,
    }  # fmt: skip
    run = start_run(client, silos, tmp_path, policy=policy)
    silos[0].send(run, 1, deltas(0.0))
    for event in client.watch(run):
        if event.WhichOneof("event") == "reduced":
            break
    assert silos[1].send(run, 1, deltas(3.0)).verdict == pb.VERDICT_FOLDED
    assert silos[1].send(run, 1, deltas(3.0)).verdict == pb.VERDICT_ACCEPTED  # again: it is known
    assert [a.silo for a in client.run(run).waiting] == [silos[1].name]
    for number in (1, 2):  # the second round is sealed as soon as it opens
        for silo in silos:
            while (task := next(silo.tasks)).kind != pb.TASK_KIND_EVALUATE:
                pass
            assert task.round == number
            silo.client.answer(run, number, evaluation=pb.EvaluationAnswer(samples=1, metrics={}))
    list(client.watch(run))
    done = client.run(run)
    assert not done.waiting
    assert dict(done.history[1].late) == {silos[1].name: 1}
    client.get_model(run, str(tmp_path / "got"))
    assert all(np.allclose(t, 3.0) for t in read_file(tmp_path / "got").values())


@pytest.mark.parametrize(
    ("contract", "limit"),
    [({"max_samples": 4}, 4), ({"max_sample_ratio": 2.0}, 20), ({"max_samples": 7, "max_sample_ratio": 2.0}, 7)],
)
def test_a_silo_does_not_claim_more_weight_than_the_run_allows(
    served: Running, client: FederationClient, tmp_path: Path, contract: Any, limit: int
) -> None:
    silos = [ManualSilo(served.target, tmp_path, samples=n) for n in (10, 10, 1 << 60)]
    run = start_run(client, silos, tmp_path, data=pb.DataContract(**contract))
    told = silos[2].send(run, 1, deltas(), samples=limit + 1)
    assert told.verdict == pb.VERDICT_REFUSED
    assert f"1 to {limit} " in told.reason
    assert "max_samples" in told.reason
    assert silos[2].send(run, 1, deltas(2.0), samples=limit).verdict == pb.VERDICT_ACCEPTED
    with pytest.raises(RemoteError, match=f"may claim {limit} samples"):  # or it alone would say when the target is met
        silos[2].client.answer(run, 1, evaluation=pb.EvaluationAnswer(samples=limit + 1))
    client.cancel(run)


def test_of_two_silos_the_smaller_one_bounds_the_other(
    served: Running, client: FederationClient, tmp_path: Path
) -> None:
    silos = [ManualSilo(served.target, tmp_path, samples=n) for n in (10, 1 << 50)]
    run = start_run(client, silos, tmp_path, data=pb.DataContract(max_sample_ratio=2.0))
    told = silos[1].send(run, 1, deltas(), samples=21)
    assert (told.verdict, "1 to 20 " in told.reason) == (pb.VERDICT_REFUSED, True)
    assert silos[1].send(run, 1, deltas(2.0), samples=20).verdict == pb.VERDICT_ACCEPTED
    client.cancel(run)


def test_another_answer_for_a_closed_task_is_told_so(served: Running, client: FederationClient, tmp_path: Path) -> None:
    silo, other = (ManualSilo(served.target, tmp_path) for _ in range(2))
    run = start_run(client, [silo, other], tmp_path, policy={"rounds": 2, "evaluate_every": 1})
    silo.send(run, 1, deltas(1.0))
    other.send(run, 1, deltas(1.0))
    assert next(silo.tasks).kind == pb.TASK_KIND_EVALUATE
    answers = [
        silo.client.answer(run, 1, evaluation=pb.EvaluationAnswer(samples=1, metrics={"f1": value}))
        for value in (0.5, 0.5, 0.9)
    ]
    assert [a.verdict for a in answers] == [pb.VERDICT_ACCEPTED, pb.VERDICT_ACCEPTED, pb.VERDICT_DROPPED]
    assert "another answer" in answers[2].reason
    other.client.answer(run, 1, evaluation=pb.EvaluationAnswer(samples=1))
    assert next(silo.tasks).round == 2
    again = silo.client.answer(run, 1, update=pb.UpdateAnswer(digest="0" * 64, samples=5))
    assert (again.verdict, again.reason) == (pb.VERDICT_DROPPED, "this round has another update of yours already")
    with pytest.raises(RemoteError, match="another update of yours"):
        silo.send(run, 1, deltas(2.0))
    client.cancel(run)


def test_a_missed_quorum_waits_for_silos_that_were_not_asked_yet(
    served: Running, client: FederationClient, tmp_path: Path
) -> None:
    silos = [ManualSilo(served.target, tmp_path) for _ in range(2)]
    newcomer = next(SILO_NAMES)
    model = client.put_model(write_model(tmp_path / "model.safetensors"))
    policy = {"rounds": 1, "missed_quorum": pb.MISSED_QUORUM_WAIT}
    run = client.create_run(spec(model, policy=policy, silos=[*(silo.name for silo in silos), newcomer])).run_id
    for silo in silos:
        assert next(silo.tasks).kind == pb.TASK_KIND_TRAIN
    silos[0].send(run, 1, deltas(1.0))
    assert silos[1].send(run, 1, deltas(np.nan)).verdict == pb.VERDICT_REFUSED
    assert client.run(run).status == pb.RUN_STATUS_RUNNING
    late = ManualSilo(served.target, tmp_path, name=newcomer)
    assert next(late.tasks).round == 1
    late.send(run, 1, deltas(3.0))
    list(client.watch(run))
    done = client.run(run)
    assert (done.status, list(done.history[0].silos)) == (pb.RUN_STATUS_FINISHED, sorted([silos[0].name, newcomer]))
