"""What a silo keeps over its own death: its state, its trained update, and one answer a round."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.client_base import RemoteNotFound
from eoforge.client_federation import FederationClient
from eoforge.errors import DataRefused
from eoforge.federated.abandon import stop_if_told
from eoforge.federated.silo import Silo
from eoforge.federated.strategy import Task
from eoforge.federated.tensorfile import read_file
from tests.federated.quadratic import Quadratic, spec, write_model
from tests.services.federation_world import JOIN_S, Runner, server_for, wait_connected
from tests.services.support import running


class Killed(BaseException):
    """Ends a silo's thread as a kill would end its process: nothing after it runs."""


@pytest.mark.parametrize("where", ["_hand_in", "_conclude"])
def test_a_silo_killed_after_training_neither_trains_again_nor_loses_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Killed before its upload (``_hand_in``), or after the acknowledgement was sent but not heard (``_conclude``)."""
    original = getattr(Silo, where)
    killed = threading.Event()

    def once(self: Silo, *arguments: Any, **options: Any) -> Any:
        if not killed.is_set() and self._client.silo_id == "a":
            killed.set()
            raise Killed
        return original(self, *arguments, **options)

    monkeypatch.setattr(Silo, where, once)
    with running(server_for(tmp_path / "store")) as served, FederationClient(served.target) as client:
        other = Runner(served.target, "b", tmp_path)
        first = Runner(served.target, "a", tmp_path)
        model = client.put_model(write_model(tmp_path / "model.safetensors"))
        client.create_run(spec(model, policy={"rounds": 3}), "run")
        first.thread.join(JOIN_S)
        assert isinstance(first.error, Killed)
        first.silo._client.close()
        again = Runner(served.target, "a", tmp_path, until="run")
        assert again.join() == pb.RUN_STATUS_FINISHED
        other.silo.stop()
        assert [list(s.silos) for s in client.run("run").history] == [["a", "b"]] * 3
    assert first.trainer.trained + again.trainer.trained == [0, 1, 2]
    assert int(read_file(tmp_path / "a" / "run" / "state.safetensors")["rounds"]) == 3


def test_a_silo_that_cannot_train_says_so_and_serves_the_next_run(tmp_path: Path) -> None:
    def fail(task: Task) -> None:
        if not failed:
            failed.append(task.round)
            raise DataRefused("no such band")

    failed: list[int] = []
    with running(server_for(tmp_path / "store")) as served, FederationClient(served.target) as client:
        runner = Runner(served.target, "a", tmp_path, Quadratic(before=fail))
        model = client.put_model(write_model(tmp_path / "model.safetensors"))
        policy = {"rounds": 1, "min_silos": 1}
        client.create_run(spec(model, policy=policy), "bad")
        reasons = [e.dropped.reason for e in client.watch("bad") if e.WhichOneof("event") == "dropped"]
        assert reasons == ["no such band"]
        assert client.run("bad").status == pb.RUN_STATUS_FAILED
        client.create_run(spec(model, policy=policy), "good")
        list(client.watch("good"))
        assert client.run("good").status == pb.RUN_STATUS_FINISHED
        runner.silo.stop()


def test_a_silo_stops_training_when_the_run_is_cancelled(tmp_path: Path) -> None:
    training = threading.Event()

    def for_ever(task: Task) -> None:
        training.set()
        while True:
            stop_if_told()
            time.sleep(0.01)

    with running(server_for(tmp_path / "store")) as served, FederationClient(served.target) as client:
        runner = Runner(served.target, "a", tmp_path, Quadratic(before=for_ever), until="run")
        model = client.put_model(write_model(tmp_path / "model.safetensors"))
        client.create_run(spec(model, policy={"min_silos": 1}), "run")
        assert training.wait(JOIN_S)
        client.cancel("run")
        assert runner.join() == pb.RUN_STATUS_CANCELLED
        assert runner.trainer.trained == []


def test_a_silo_stops_training_when_its_round_goes_on_without_it(tmp_path: Path) -> None:
    def slow_at_first(task: Task) -> None:
        while task.round == 0:
            stop_if_told()
            time.sleep(0.01)

    policy = {"min_silos": 1, "selection": pb.SELECTION_FRACTION, "fraction": 0.5, "over_selection": 1.0}
    with running(server_for(tmp_path / "store")) as served, FederationClient(served.target) as client:
        slow = Runner(served.target, "slow", tmp_path, Quadratic(before=slow_at_first), until="run")
        quick = Runner(served.target, "quick", tmp_path, until="run")
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
        assert Runner(served.target, "a", tmp_path, until="over").join() == pb.RUN_STATUS_CANCELLED
        with pytest.raises(RemoteNotFound, match="no run 'never'"):
            Runner(served.target, "b", tmp_path, until="never", within=0.2).join()
        patient = Runner(served.target, "c", tmp_path, until="soon", within=JOIN_S)
        wait_connected(client, 1)
        client.create_run(spec(model, silos=["somebody else"]), "soon")
        client.cancel("soon")
        assert patient.join() == pb.RUN_STATUS_CANCELLED
