"""Restarts of a silo: its state, its trained update, and one answer per round."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.client.base import RemoteNotFound
from eoforge.client.federation import FederationClient
from eoforge.client.silo import SiloClient
from eoforge.errors import DataRefused, EoforgeError
from eoforge.federated.silo.cancellation import raise_if_cancelled
from eoforge.federated.silo.files import SiloFiles
from eoforge.federated.silo.silo import Silo
from eoforge.federated.strategy import LocalResult, Task
from eoforge.storage.tensorfile import Array, read_file
from tests.federated.quadratic import Quadratic, spec, write_model
from tests.services.federation.helpers import JOIN_S, ManualSilo, SiloThread, deltas, server_for, wait_connected
from tests.services.support import running


class Killed(BaseException):
    """Ends a silo's thread as a kill would end its process: nothing after it runs."""


@pytest.mark.parametrize("where", [(Silo, "_upload"), (SiloFiles, "settle")])
def test_a_silo_killed_after_training_neither_trains_again_nor_loses_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[type, str]
) -> None:
    """Killed before its upload (``_upload``), or between the acknowledgement and its receipt (``settle``)."""
    original = getattr(*where)
    killed = threading.Event()

    def once(self: Any, *arguments: Any, **options: Any) -> Any:
        if not killed.is_set() and threading.current_thread() is first.thread:
            killed.set()
            raise Killed
        return original(self, *arguments, **options)

    monkeypatch.setattr(*where, once)
    with running(server_for(tmp_path / "store")) as served, FederationClient(served.target) as client:
        other = SiloThread(served.target, "b", tmp_path)
        first = SiloThread(served.target, "a", tmp_path)
        model = client.put_model(write_model(tmp_path / "model.safetensors"))
        client.create_run(spec(model, policy={"rounds": 3}), "run")
        first.thread.join(JOIN_S)
        assert isinstance(first.error, Killed)
        first.silo._client.close()
        again = SiloThread(served.target, "a", tmp_path, until="run")
        assert again.join() == pb.RUN_STATUS_FINISHED
        other.silo.stop()
        assert [list(s.silos) for s in client.run("run").history] == [["a", "b"]] * 3
    assert first.trainer.trained + again.trainer.trained == [0, 1, 2]
    assert int(read_file(tmp_path / "a" / "run" / "state.safetensors")["rounds"]) == 3


def test_a_silo_that_comes_back_after_days_takes_part_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed with an update that it had not sent; meanwhile four rounds went on, and the coordinator was restarted."""

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    def asked(silo: ManualSilo) -> int:
        return next(task for task in silo.tasks if task.kind == pb.TASK_KIND_TRAIN).round

    policy = {"rounds": 6, "min_silos": 1, "selection": pb.SELECTION_FRACTION, "fraction": 0.5, "over_selection": 1.0}
    policy |= {"late": pb.LATE_POLICY_FOLD, "late_discount": 0.5}  # the first update ends a round
    with running(server_for(tmp_path / "store")) as served, FederationClient(served.target) as client:
        stays = ManualSilo(served.target, tmp_path, name="b")
        with monkeypatch.context() as patch:
            patch.setattr(Silo, "_upload", killed)
            first = SiloThread(served.target, "a", tmp_path)
            wait_connected(client, 2)
            model = client.put_model(write_model(tmp_path / "model.safetensors"))
            client.create_run(spec(model, policy=policy), "run")
            first.thread.join(JOIN_S)
        assert isinstance(first.error, Killed)
        first.silo._client.close()
        for number in range(1, 5):
            assert asked(stays) == number
            stays.send("run", number, deltas())
        assert asked(stays) == 5
        stays.client.close()
    assert (tmp_path / "a" / "run" / "update-1.json").exists()
    with running(server_for(tmp_path / "store")) as served, FederationClient(served.target) as client:
        stays = ManualSilo(served.target, tmp_path, name="b")
        again = SiloThread(served.target, "a", tmp_path, until="run")
        wait_connected(client, 2)
        assert asked(stays) == 5
        stays.send("run", 5, deltas())
        assert again.join() == pb.RUN_STATUS_FINISHED
        rounds = [list(summary.silos) for summary in client.run("run").history]
    assert rounds == [["b"]] * 5 + [["a"]]
    assert first.trainer.trained + again.trainer.trained == [0, 5]
    assert not list((tmp_path / "a" / "run").glob("update-*")), "what no round takes any more is dropped"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DataRefused("no such band"), "no such band"),
        # Nobody planned for these; what they say may name files of the silo.
        (OSError("No space left on device: /data/berlin"), "OSError; the silo's log says more"),
        (RuntimeError("CUDA out of memory"), "RuntimeError; the silo's log says more"),
    ],
)
def test_a_silo_that_cannot_train_says_so_and_serves_the_next_run(
    tmp_path: Path, error: Exception, reason: str
) -> None:
    def fail(task: Task) -> None:
        if not failed:
            failed.append(task.round)
            raise error

    failed: list[int] = []
    with running(server_for(tmp_path / "store")) as served, FederationClient(served.target) as client:
        runner = SiloThread(served.target, "a", tmp_path, Quadratic(before=fail))
        model = client.put_model(write_model(tmp_path / "model.safetensors"))
        policy = {"rounds": 1, "min_silos": 1}
        client.create_run(spec(model, policy=policy), "bad")
        reasons = [e.dropped.reason for e in client.watch("bad") if e.WhichOneof("event") == "dropped"]
        assert reasons == [reason]
        assert client.run("bad").status == pb.RUN_STATUS_FAILED
        client.create_run(spec(model, policy=policy), "good")
        list(client.watch("good"))
        assert client.run("good").status == pb.RUN_STATUS_FINISHED
        runner.silo.stop()


def test_a_silo_that_sends_what_nobody_takes_says_so(tmp_path: Path) -> None:
    """Larger than what was asked for: refused before a byte is stored, and the round must not wait for another."""

    class Large(Quadratic):
        def train(self, task: Task, state: Mapping[str, Array]) -> LocalResult:
            return LocalResult({"delta/x": np.zeros(3 << 20, np.float32)}, 10, 1)

    with running(server_for(tmp_path / "store")) as served, FederationClient(served.target) as client:
        runner = SiloThread(served.target, "a", tmp_path, Large(), until="run")
        model = client.put_model(write_model(tmp_path / "model.safetensors"))
        client.create_run(spec(model, policy={"min_silos": 1}), "run")
        assert runner.join() == pb.RUN_STATUS_FAILED
        assert "1 gave up" in client.run("run").failure


def test_a_silo_outlives_a_failure_that_nobody_waits_for(tmp_path: Path) -> None:
    """Its training fails when the run has just been cancelled: the refusal of its excuse must not end it."""

    def fail_late(task: Task) -> None:
        if task.silo == "a" and not failed:
            failed.append(task.round)
            client.cancel("gone")
            raise DataRefused("no such band")

    failed: list[int] = []
    with running(server_for(tmp_path / "store")) as served, FederationClient(served.target) as client:
        runner = SiloThread(served.target, "a", tmp_path, Quadratic(before=fail_late), until="next")
        model = client.put_model(write_model(tmp_path / "model.safetensors"))
        client.create_run(spec(model, policy={"min_silos": 1}), "gone")
        list(client.watch("gone"))
        client.create_run(spec(model, policy={"min_silos": 1}), "next")
        assert runner.join() == pb.RUN_STATUS_FINISHED


def test_a_run_made_anew_under_an_old_name_meets_no_old_state(tmp_path: Path) -> None:
    """The coordinator's store was lost: corrections and trainers of the old run do not belong to the new one."""
    made: list[int] = []

    def trainers(task: pb.Task) -> Quadratic:
        made.append(task.round)
        return Quadratic()

    for life in ("first", "second"):
        with running(server_for(tmp_path / life)) as served, FederationClient(served.target) as client:
            silo = Silo(SiloClient(served.target, silo_id="a"), trainers, tmp_path / "a", modalities=["s2"], samples=10)
            model = client.put_model(write_model(tmp_path / "model.safetensors"))
            client.create_run(spec(model, policy={"min_silos": 1}), "run")
            assert silo.run(until_end_of="run") == pb.RUN_STATUS_FINISHED
            assert not silo._made  # nor does a silo that serves for years keep every run's data in memory
            silo.stop()
    assert int(read_file(tmp_path / "a" / "run" / "state.safetensors")["rounds"]) == 2
    assert len(made) == 2


def test_a_spoilt_update_is_trained_again(tmp_path: Path) -> None:
    files = SiloFiles(tmp_path, pb.Task(run_id="run"))
    files.keep(1, LocalResult({}, 10, 2), {"delta/w": np.zeros(3, np.float32)})
    assert files.numbers(1) == {"samples": 10, "steps": 2, "scalars": {}, "metrics": {}}
    (tmp_path / "run" / "update-1.json").write_text("")  # as after a power cut
    assert not files.numbers(1)


def test_secrets_of_the_last_round_are_forgotten_with_the_run(tmp_path: Path) -> None:
    files = SiloFiles(tmp_path, pb.Task(run_id="run"))
    files.masking(1, "a").keys()
    files.end_run()
    assert not list((tmp_path / "run").glob("masking-*"))
    with pytest.raises(EoforgeError, match="no secrets"):
        files.masking(1, "a").shares(pb.Task(mask_keys={name: pb.MaskKeys() for name in "abc"}, threshold=2))


def test_a_silo_stops_training_when_the_run_is_cancelled(tmp_path: Path) -> None:
    training = threading.Event()

    def for_ever(task: Task) -> None:
        training.set()
        while True:
            raise_if_cancelled()
            time.sleep(0.01)

    with running(server_for(tmp_path / "store")) as served, FederationClient(served.target) as client:
        runner = SiloThread(served.target, "a", tmp_path, Quadratic(before=for_ever), until="run")
        model = client.put_model(write_model(tmp_path / "model.safetensors"))
        client.create_run(spec(model, policy={"min_silos": 1}), "run")
        assert training.wait(JOIN_S)
        client.cancel("run")
        assert runner.join() == pb.RUN_STATUS_CANCELLED
        assert runner.trainer.trained == []


def test_a_silo_stops_training_when_its_round_goes_on_without_it(tmp_path: Path) -> None:
    def slow_at_first(task: Task) -> None:
        while task.round == 0:
            raise_if_cancelled()
            time.sleep(0.01)

    policy = {"min_silos": 1, "selection": pb.SELECTION_FRACTION, "fraction": 0.5, "over_selection": 1.0}
    with running(server_for(tmp_path / "store")) as served, FederationClient(served.target) as client:
        slow = SiloThread(served.target, "slow", tmp_path, Quadratic(before=slow_at_first), until="run")
        quick = SiloThread(served.target, "quick", tmp_path, until="run")
        wait_connected(client, 2)
        model = client.put_model(write_model(tmp_path / "model.safetensors"))
        client.create_run(spec(model, policy=policy), "run")
        assert [slow.join(), quick.join()] == [pb.RUN_STATUS_FINISHED] * 2
        assert 0 not in slow.trainer.trained


def test_a_silo_hears_of_an_end_that_was_long_ago_and_of_a_run_that_never_was(tmp_path: Path) -> None:
    with running(server_for(tmp_path / "store")) as served, FederationClient(served.target) as client:
        model = client.put_model(write_model(tmp_path / "model.safetensors"))
        client.create_run(spec(model, silos=["somebody else"]), "over")
        client.cancel("over")
    with running(server_for(tmp_path / "store")) as served, FederationClient(served.target) as client:
        assert SiloThread(served.target, "a", tmp_path, until="over").join() == pb.RUN_STATUS_CANCELLED
        with pytest.raises(RemoteNotFound, match="no run 'never'"):
            SiloThread(served.target, "b", tmp_path, until="never", within=0.2).join()
        patient = SiloThread(served.target, "c", tmp_path, until="soon", within=JOIN_S)
        wait_connected(client, 1)
        client.create_run(spec(model, silos=["somebody else"]), "soon")
        client.cancel("soon")
        assert patient.join() == pb.RUN_STATUS_CANCELLED
