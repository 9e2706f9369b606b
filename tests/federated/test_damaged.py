"""Parsers of stored text and protobufs with arbitrary bytes: the result is a message or an error of ours."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import DamagedObject, EoforgeError
from eoforge.federated.privacy.silo_masks import Masking
from eoforge.federated.run.journal import MAX_EVENT_BYTES, Journal
from eoforge.federated.run.leader import Leadership
from eoforge.federated.silo.files import SiloFiles
from eoforge.federated.store.chunk_store import ChunkStore, StoredFile
from eoforge.federated.store.messages import from_bytes, from_json
from eoforge.storage.objects import ObjectStore

EVENT = pb.RunEvent(
    sequence=2,
    actor="a",
    round_opened=pb.RoundOpened(number=1, selected=["a"], members=[pb.Member(silo="a", samples=3)], objects={"x": "y"}),
)
EVENT.at.GetCurrentTime()
VALID = json_format.MessageToJson(EVENT, indent=None).encode()
DIGEST = "0" * 64


@st.composite
def damaged(draw: Callable[..., Any]) -> bytes:
    """A valid event with some bytes replaced, removed or added."""
    start = draw(st.integers(0, len(VALID)))
    stop = draw(st.integers(start, min(start + 20, len(VALID))))
    return VALID[:start] + bytes(draw(st.binary(max_size=8))) + VALID[stop:]


BYTES = st.binary(max_size=200) | damaged() | st.sampled_from([b"[]", b"null", b"3", b'"x"', b"[" * 5000, b"{}"])


@contextmanager
def store() -> Iterator[ObjectStore]:
    with tempfile.TemporaryDirectory() as folder:
        yield ObjectStore(folder)


@given(BYTES)
def test_messages(data: bytes) -> None:
    for kind in (pb.Run, pb.RunEvent, pb.Silo):
        with suppress(DamagedObject):
            from_json(data, kind(), "x")
    for kind in (pb.Manifest, pb.SharesAnswer, pb.UnmaskAnswer):
        with suppress(DamagedObject):
            from_bytes(data, kind, "x")


@given(BYTES, st.sampled_from(["journal/000000000002.json", "snapshots/000000000002.json"]))
def test_a_run(data: bytes, key: str) -> None:
    with store() as objects:
        Journal(objects, "r").append(pb.RunEvent(created=pb.Created(run_id="r")), "alice")
        objects.put(f"runs/r/{key}", data)
        try:
            assert Journal(objects, "r").load().run_id in ("r", "")
        except DamagedObject:
            assert key.startswith("journal")


def test_a_damaged_snapshot_costs_time_only(tmp_path: Path) -> None:
    objects = ObjectStore(str(tmp_path))
    journal = Journal(objects, "r")
    journal.append(pb.RunEvent(created=pb.Created(run_id="r")), "alice")
    journal.snapshot()
    journal.take("one")
    journal.snapshot()
    for damage in (b"", b"\xff\xfe", b"{"):
        objects.put("runs/r/snapshots/000000000002.json", damage)
        assert Journal(objects, "r").load() == journal.run


def test_an_event_beyond_the_limit_is_damage_of_its_run(tmp_path: Path) -> None:
    objects = ObjectStore(str(tmp_path))
    Journal(objects, "r").append(pb.RunEvent(created=pb.Created(run_id="r")), "alice")
    objects.put("runs/r/journal/000000000002.json", b" " * (MAX_EVENT_BYTES + 1))
    with pytest.raises(DamagedObject):
        Journal(objects, "r").load()


@given(BYTES)
def test_a_term_of_the_lead(data: bytes) -> None:
    with store() as objects:
        objects.put("leader/000000000007", data)
        objects.put("leader/zzz", data)
        leader = Leadership(objects, "one", 0.0)
        assert leader.renew() in (True, False)
        assert leader.renew() or leader.holder  # a readable holder may still be alive, a damaged one counts as gone


@given(BYTES)
def test_files_of_models(data: bytes) -> None:
    with store() as objects:
        objects.put(f"x/manifests/{DIGEST}", data)
        with pytest.raises(EoforgeError):
            ChunkStore(objects, "x").open(DIGEST)
        objects.put(f"x/chunks/{DIGEST}", data)
        manifest = pb.Manifest(length=len(data), chunks=[bytes(32)])
        with suppress(EoforgeError):
            StoredFile(ChunkStore(objects, "x"), manifest)


@given(BYTES)
def test_files_of_a_silo(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = SiloFiles(Path(folder), pb.Task(run_id="r"))
        for name in ("update-1.json", "update-x.json", "run.json", "masking-1.json"):
            (files.folder / name).write_bytes(data)
        files = SiloFiles(Path(folder), pb.Task(run_id="r"))
        assert files.unacknowledged() == [1]
        assert isinstance(files.numbers(1), dict)
        with suppress(DamagedObject):
            Masking(files.folder, "r", 1, "a")._kept()
