"""Journal with a store that repeats writes, and with oversized events."""

from __future__ import annotations

from pathlib import Path

import pytest

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import LimitExceeded
from eoforge.federated.run import journal
from eoforge.federated.run.journal import Journal
from eoforge.storage.objects import ObjectStore


class Repeating(ObjectStore):
    """Writes, loses the answer, writes again, and says that something is there: what a retried PUT on S3 looks like."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        super().put_if_absent(key, data)
        return super().put_if_absent(key, data)


def test_an_event_whose_acknowledgement_was_lost_is_still_ours(tmp_path: Path) -> None:
    written = Journal(Repeating(str(tmp_path)), "r")
    written.append(pb.RunEvent(created=pb.Created(run_id="r")), "alice")
    written.take("one")
    assert Journal(ObjectStore(str(tmp_path)), "r").load().holder == "one"


def test_an_event_that_nobody_could_read_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the run, and every coordinator that looks for runs to take, would stumble over it for ever."""
    monkeypatch.setattr(journal, "MAX_EVENT_BYTES", 1000)
    written = Journal(ObjectStore(str(tmp_path)), "r")
    written.append(pb.RunEvent(created=pb.Created(run_id="r")), "alice")
    with pytest.raises(LimitExceeded, match="1000 bytes"):
        written.append(pb.RunEvent(accepted=pb.Accepted(silo="a", metrics={"\x01" * 500: 1.0})), "a")
    assert Journal(ObjectStore(str(tmp_path)), "r").load() == written.run
