"""Files on the disk: flushed before the acknowledgement, deleted when they are not needed any more."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.client.base import RemoteError
from eoforge.client.federation import FederationClient
from eoforge.errors import NotFound, StoreError
from eoforge.federated.store.chunk_store import ChunkStore
from eoforge.storage.objects import ObjectStore
from eoforge.storage.tensorfile import read_file
from tests.federated.quadratic import spec, write_model
from tests.services.federation.helpers import ManualSilo, deltas, server_for, silo_threads, start_run, wait_for
from tests.services.support import running


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Paths that were flushed."""
    seen: set[str] = set()
    original = os.fsync

    def fsync(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        seen.add(name.partition("#")[0])  # a file is flushed before it has its name
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return seen


def files(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*") if path.is_file()}


def test_an_update_and_its_event_are_flushed_when_they_are_acknowledged(tmp_path: Path, flushed: set[str]) -> None:
    store = tmp_path / "store"
    with running(server_for(store, flush=True)) as served, FederationClient(served.target) as client:
        silos = [ManualSilo(served.target, tmp_path) for _ in range(2)]
        run = start_run(client, silos, tmp_path)
        assert silos[0].send(run, 1, deltas()).verdict == pb.VERDICT_ACCEPTED
        update = store / "runs" / run / "rounds/000001" / silos[0].name
        written = files(update) | files(store / "runs" / run / "journal") | files(store / "runs" / run / "objects")
        assert written <= flushed
        folders = {parent for path in written for parent in Path(path).parents if parent.is_relative_to(store)}
        assert {str(folder) for folder in folders} <= flushed  # a file is lost with the folder that names it
        client.cancel(run)


def test_a_store_that_need_not_survive_a_power_cut_does_not_flush(tmp_path: Path, flushed: set[str]) -> None:
    ObjectStore(str(tmp_path)).put("a", b"a")
    assert not flushed
    store = ObjectStore(str(tmp_path), durable=True)
    store.put_if_absent("b/c", b"c")
    store.copy("b/c", "d/e")
    store.put_stream("f", iter([b"f"]))
    assert flushed == {str(tmp_path / name) for name in ("", "b", "b/c", "d", "d/e", "f")} | {str(tmp_path)} - {""}


def test_what_a_power_cut_interrupts_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an empty journal entry, which nobody was told of, would make its whole run unreadable."""
    store = ObjectStore(str(tmp_path), durable=True)
    assert store.put_if_absent("a/old", b"old")

    def cut(descriptor: int) -> None:
        raise OSError("the disk is gone")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", cut)
        for write, key in ((store.put, "a/new"), (store.put_if_absent, "a/new"), (store.put, "a/old")):
            with pytest.raises(StoreError, match="the disk is gone"):
                write(key, b"new")
    assert list(store.list()) == ["a/old"]
    assert files(tmp_path) == {str(tmp_path / "a/old")}
    assert store.get("a/old") == b"old"
    assert not store.put_if_absent("a/old", b"new")
    store.put("a/old", b"new")
    assert store.get("a/old") == b"new"


def test_models_that_nobody_can_ask_for_are_deleted(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with (
        running(server_for(store)) as served,
        silo_threads(served.target, tmp_path / "silos", ["a", "b"]),
        FederationClient(served.target) as client,
    ):
        wanted = spec(client.put_model(write_model(tmp_path / "model")), policy={"rounds": 5})
        wanted.keep_models = 2
        client.create_run(wanted, "short")
        wait_for(client, "short", lambda event: event.WhichOneof("event") == "status_changed")
        run = client.run("short")
        history = run.history
        for number, model in ((4, history[3].model), (5, history[4].model)):
            assert client.get_model("short", str(tmp_path / model), round=number) == number
        assert client.get_model("short", str(tmp_path / "first"), initial=True) == 0
        with pytest.raises(RemoteError, match="keep_models"):
            client.get_model("short", str(tmp_path / "gone"), round=3)
    there = {path.name for path in (store / "runs/short/objects/manifests").iterdir()}
    assert there == {history[3].model, history[4].model, run.initial_model}
    assert len(list((store / "runs/short/objects/chunks").iterdir())) == 3
    assert not files(store / "runs/short/rounds")  # it is over: no update is needed any more


def test_what_is_kept_keeps_the_chunks_that_it_shares(tmp_path: Path) -> None:
    objects = ChunkStore(ObjectStore(str(tmp_path)), "o")

    def put(*parts: bytes) -> str:
        import hashlib

        digests = [hashlib.sha256(part).digest() for part in parts]
        for digest, part in zip(digests, parts, strict=True):
            objects.put_chunk(digest, part)
        return objects.put_manifest(pb.Manifest(length=sum(map(len, parts)), chunks=digests))

    old, new = put(b"same", b"old"), put(b"same", b"new")
    objects.put_chunk(b"\0" * 32, b"of an upload that was cut")
    assert objects.keep({new}) == 3
    assert [objects.chunk(chunk) for chunk in objects.manifest(new).chunks] == [b"same", b"new"]
    with pytest.raises(NotFound):
        objects.manifest(old)


def test_uploaded_models_expire_and_a_run_keeps_its_own(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with running(server_for(store, upload_seconds=86400.0)) as served, FederationClient(served.target) as client:
        model = client.put_model(write_model(tmp_path / "model"))
        run = client.create_run(spec(model, silos=["nobody"])).run_id
        assert files(store / "uploads")
        assert ChunkStore(ObjectStore(str(store)), "uploads").expire(3600.0) == 0
        assert ChunkStore(ObjectStore(str(store)), "uploads").expire(-1.0) == 1
        client.get_model(run, str(tmp_path / "got"), initial=True)
        assert all(np.all(t == 0) for t in read_file(tmp_path / "got").values())
        with pytest.raises(RemoteError, match="PutModel") as caught:
            client.create_run(spec(model, silos=["nobody"]), "other")
        assert caught.value.remote_reason == "WRONG_STATE"
        assert client.put_model(str(tmp_path / "model")) == model  # sent again
        client.create_run(spec(model, silos=["nobody"]), "other")
