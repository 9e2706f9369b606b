"""Newer versions of the codes that must not replace a full one: empty, of other patches, or damaged."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import lance
import pytest
from structlog.testing import capture_logs

from eoforge.client import RetrievalClient
from eoforge.data.records import record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.data.tables.schema import PATCHES
from eoforge.index.code_table import PATCHES_VERSION
from eoforge.storage.addresses import open_table
from services.retrieval import state
from tests.index.conftest import flip_a_bit
from tests.services.conftest import server_for
from tests.services.retrieval.fixtures import FIRST, RetrievalFixture, make_retrieval_fixture
from tests.services.support import running, until


def _empty(archive: RetrievalFixture) -> None:
    open_table(archive.codes).delete("true")


def _without_radar(archive: RetrievalFixture) -> None:
    open_table(archive.codes).delete("modality = 's1'")


def _of_other_patches(archive: RetrievalFixture) -> None:
    """The version of the patches that the codes name has other patches."""
    other = record_batch(list(synthetic_pairs(FIRST, seed=8)))
    table = lance.write_dataset(other, archive.patches, schema=PATCHES, mode="overwrite")
    open_table(archive.codes).update_schema_metadata({PATCHES_VERSION: str(table.version)})


def _damaged(archive: RetrievalFixture) -> None:
    """Damage first: the loaded version is not read again, and every newer one holds the damaged file from its start.

    The local copy goes, as on a new node: rows that it holds are not read from the table again.
    """
    flip_a_bit(archive.codes)
    shutil.rmtree(os.environ["EOFORGE_CACHE_FOLDER"])
    archive.grow()


@pytest.mark.parametrize("spoil", [_empty, _without_radar, _of_other_patches, _damaged])
def test_a_version_that_does_not_match_is_not_taken_up(
    tmp_path: Path, spoil: Callable[[RetrievalFixture], None]
) -> None:
    archive = make_retrieval_fixture(tmp_path)
    known = archive.pairs[0].meta.patch_id
    with running(server_for(archive, poll_seconds=0.05)) as run, RetrievalClient(run.target, attempts=1) as client:
        (before,) = client.indexes()
        failed = state.SWAPS.labels("failed")._value.get
        count = failed()
        with capture_logs() as log:
            spoil(archive)
            until(lambda: failed() > count + 2)
        assert "newer index refused" in {entry["event"] for entry in log}
        assert client.indexes()[0].patches["s2"] == before.patches["s2"] == FIRST
        assert client.search(patch_id=known, source="s2", target="s2", k=1)[0].patch_id == known
