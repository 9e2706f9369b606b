"""Kills and lost connections: no acknowledged update is lost."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.client.base import RemoteError
from eoforge.client.federation import FederationClient
from eoforge.client.silo import SiloClient
from eoforge.errors import LeaseLost
from eoforge.federated.run.journal import Journal
from eoforge.storage.chunks import digest_of, file_chunks, file_manifest
from eoforge.storage.objects import ObjectStore
from eoforge.storage.tensorfile import CHUNK_BYTES, write_file
from tests.federated.quadratic import Quadratic, spec, write_model
from tests.services.federation.helpers import SiloThread, coordinator_of, server_for, silo_threads, wait_for
from tests.services.support import running, until

READY_S = 120.0


class CoordinatorProcess:
    """Process of the service, on one port over all restarts."""

    def __init__(self, folder: Path, **environment: str) -> None:
        # Bound but not listening: the service may take the port, and no other process gets it during a restart.
        self._port = socket.socket()
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port.bind(("127.0.0.1", 0))
        self._environment = {
            "EOFORGE_FEDERATION_URI": str(folder),
            "EOFORGE_PORT": str(self._port.getsockname()[1]),
            "EOFORGE_REST_PORT": "0",
            "EOFORGE_INSTANCE": "one",
            **{f"EOFORGE_{k.upper()}": v for k, v in environment.items()},
        }
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> str:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services.federation"],
            env={**os.environ, **self._environment},
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        assert self.process.stderr is not None
        end = time.monotonic() + READY_S
        for line in self.process.stderr:
            assert time.monotonic() < end, "not ready in time"
            if '"event": "serving"' in line:
                # The pipe is drained, or it would fill up and block the service.
                subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=subprocess.DEVNULL)
                return f"127.0.0.1:{self._environment['EOFORGE_PORT']}"
        raise AssertionError(f"the service ended with {self.process.wait()}")

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        if self.process is not None:
            self.kill()
        self._port.close()


@contextmanager
def coordinator_process(folder: Path, **environment: str) -> Iterator[CoordinatorProcess]:
    with closing(CoordinatorProcess(folder, **environment)) as made:
        yield made


def first_round(client: FederationClient, run_id: str) -> list[pb.RunEvent]:
    """All events up to the first round's end."""
    events = []
    for event in client.watch(run_id):
        events.append(event)
        if event.WhichOneof("event") == "round_closed":
            break
    return events


def is_kind(*kinds: str) -> Any:
    return lambda event: event.WhichOneof("event") in kinds


@pytest.mark.slow
def test_killed_in_the_middle_of_a_round_it_goes_on_and_the_model_is_bit_equal(tmp_path: Path) -> None:
    """One run undisturbed, one whose coordinator is killed with updates accepted and with the set sealed."""
    model_path = write_model(tmp_path / "model.safetensors")
    policy = {"rounds": 2, "min_silos": 3}
    with (
        running(server_for(tmp_path / "calm")) as served,
        silo_threads(served.target, tmp_path / "calm-silos", ["a", "b", "c"]),
        FederationClient(served.target) as client,
    ):
        client.create_run(spec(client.put_model(model_path), policy=policy), "calm")
        wait_for(client, "calm", is_kind("status_changed"))
        calm = [summary.model for summary in client.run("calm").history]

    with coordinator_process(tmp_path / "store") as service:
        target = service.start()
        gate = threading.Event()
        held = Quadratic(before=lambda task: gate.wait(READY_S) and None)
        folder = tmp_path / "silos"
        with (
            FederationClient(target, attempts=40) as client,
            silo_threads(target, folder, ["a", "b"], attempts=40) as quick,
        ):
            slow = SiloThread(target, "c", folder, held, attempts=40)
            client.create_run(spec(client.put_model(model_path), policy=policy), "shaken")
            seen = 0
            for event in client.watch("shaken"):
                seen += event.WhichOneof("event") == "accepted"
                if seen == 2:
                    break
            service.kill()
            service.start()
            run = client.run("shaken")
            assert run.round.number == 1
            assert sorted(a.silo for a in run.round.accepted) == ["a", "b"]
            gate.set()
            wait_for(client, "shaken", is_kind("status_changed"))
            done = client.run("shaken")
            slow.silo.stop()
        assert done.status == pb.RUN_STATUS_FINISHED, done.failure
        assert [summary.model for summary in done.history] == calm
        # Nothing accepted was asked for again: every silo trained every round once.
        assert {name: runner.trainer.trained for name, runner in quick.items()} == {"a": [0, 1], "b": [0, 1]}
        assert held.trained == [0, 1]


def test_a_sealed_round_that_was_not_reduced_is_reduced_after_the_restart(tmp_path: Path) -> None:
    """The journal of a finished run is cut right after the seal, as a kill there leaves it."""
    store = tmp_path / "store"
    with (
        running(server_for(store)) as served,
        silo_threads(served.target, tmp_path / "silos", ["a", "b"]),
        FederationClient(served.target) as client,
    ):
        model = client.put_model(write_model(tmp_path / "model.safetensors"))
        client.create_run(spec(model), "cut")
        client.pause("cut")  # a run that is over keeps no updates
        wait_for(client, "cut", is_kind("round_closed"))
        before = client.run("cut").history[0].model
    journal = store / "runs" / "cut" / "journal"
    for event in sorted(journal.iterdir()):
        if "sealed" in json.loads(event.read_text()):
            last = event
    for event in sorted(journal.iterdir()):
        if event.name > last.name:
            event.unlink()
    for path in (store / "runs" / "cut" / "snapshots").iterdir():
        path.unlink()
    with running(server_for(store)) as served, FederationClient(served.target) as client:
        wait_for(client, "cut", is_kind("round_closed"))
        assert client.run("cut").history[0].model == before


def test_of_two_coordinators_only_the_last_to_take_the_run_writes(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path / "store"))
    first = Journal(store, "run")
    first.append(pb.RunEvent(created=pb.Created(run_id="run")), "alice")
    first.take("one")
    second = Journal(store, "run")
    second.take("two")
    with pytest.raises(LeaseLost):
        first.append(pb.RunEvent(sealed=pb.Sealed()), "one")
    second.append(pb.RunEvent(sealed=pb.Sealed()), "two")
    assert [e.term for e in Journal(store, "run").events(0)] == [0, 1, 2, 2]
    assert first.load().holder == "two"


def test_a_second_coordinator_takes_over_and_the_first_steps_down(tmp_path: Path) -> None:
    """Both are alive; the first one's sign of life stops, as if it hung. When it wakes it cannot write."""
    store = tmp_path / "store"
    with (
        running(server_for(store, instance="one", lease_seconds=0.6)) as one,
        FederationClient(one.target) as client,
    ):
        model = client.put_model(write_model(tmp_path / "model.safetensors"))
        client.create_run(spec(model), "moved")
        coordinator_of(one)._tasks[0].cancel()
        with (
            running(server_for(store, instance="two", lease_seconds=0.6)) as two,
            FederationClient(two.target) as other,
        ):
            until(lambda: other.run("moved").holder == "two")
            with pytest.raises(RemoteError) as caught:
                FederationClient(one.target, attempts=1).pause("moved")
            assert caught.value.remote_reason == "NOT_LEADER"
            assert other.pause("moved").status == pb.RUN_STATUS_PAUSED


@pytest.mark.slow
def test_an_upload_cut_at_ninety_percent_resends_only_the_rest(tmp_path: Path) -> None:
    elements = 10 * CHUNK_BYTES // 4
    model = tmp_path / "model.safetensors"
    write_file(model, {"w": np.zeros(elements, np.float32)})
    update = tmp_path / "update.safetensors"
    write_file(update, {"delta/w": np.random.default_rng(0).standard_normal(elements, np.float32)})
    with (
        running(server_for(tmp_path / "store")) as served,
        FederationClient(served.target) as client,
        SiloClient(served.target, silo_id="a") as a,
    ):
        a.register(samples=10)
        client.create_run(spec(client.put_model(str(model)), policy={"rounds": 2, "min_silos": 1}), "cut")
        tasks = a.tasks()
        task = next(tasks)
        manifest = file_manifest(str(update))
        digest = digest_of(manifest)
        prepare = pb.PrepareUpdateRequest(run_id="cut", round=1, manifest=manifest)
        last = len(manifest.chunks) - 1

        def missing() -> list[int]:
            return list(a.stub.PrepareUpdate(prepare, metadata=a._metadata).missing)

        assert missing() == [*range(last), last]

        def cut() -> Iterator[pb.PutUpdateRequest]:
            head = {"run_id": "cut", "round": 1, "digest": digest}
            for chunk in file_chunks(str(update), manifest, range(last)):
                yield pb.PutUpdateRequest(chunk=chunk, **head)
                head = {}
            until(lambda: missing() == [last])
            call.cancel()
            yield pb.PutUpdateRequest()

        call = a.stub.PutUpdate.future(cut(), metadata=a._metadata)
        with pytest.raises(grpc.FutureCancelledError):
            call.result()
        assert missing() == [last]
        a.upload("cut", 1, str(update), manifest, digest)
        answer = {"update": pb.UpdateAnswer(digest=digest, samples=10, steps=1)}
        assert a.answer("cut", task.round, **answer).verdict == pb.VERDICT_ACCEPTED
        assert a.answer("cut", task.round, **answer).verdict == pb.VERDICT_ACCEPTED  # again: the same
        accepted = [e.accepted for e in first_round(client, "cut") if e.WhichOneof("event") == "accepted"]
        assert [(x.silo, x.digest) for x in accepted] == [("a", digest)]


def test_the_store_holds_what_was_acknowledged(tmp_path: Path) -> None:
    """Every accepted update's bytes hash to its digest on the store at the moment of the acknowledgement."""
    with (
        running(server_for(tmp_path / "store")) as served,
        silo_threads(served.target, tmp_path / "silos", ["a", "b"]),
        FederationClient(served.target) as client,
    ):
        model = client.put_model(write_model(tmp_path / "model.safetensors"))
        client.create_run(spec(model), "kept")
        client.pause("kept")  # a run that is over keeps no updates
        events = first_round(client, "kept")
    for event in events:
        if event.WhichOneof("event") == "accepted":
            folder = tmp_path / "store/runs/kept/rounds/000001" / event.accepted.silo
            manifest = pb.Manifest.FromString((folder / "manifests" / event.accepted.digest).read_bytes())
            chunks = [(folder / "chunks" / chunk.hex()).read_bytes() for chunk in manifest.chunks]
            assert [hashlib.sha256(c).digest() for c in chunks] == list(manifest.chunks)
