"""streams.lance: every patch once, the codes that the streams carry, resumed after a crash, searched like codes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import lance
import numpy as np
import pytest

from eoforge.bundle import Bundle
from eoforge.codec.coder import MaxError, Rate
from eoforge.codec.container import LIMITS
from eoforge.codec.learned.streams import stored_codes
from eoforge.codec.raster import from_pair
from eoforge.data.records import PatchPair, record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.data.tables.schema import PATCHES, RASTER_COLUMNS
from eoforge.errors import DataRefused, NotFound, StoreError
from eoforge.index.catalog import IndexSnapshot
from eoforge.index.encoder import Encoder
from eoforge.index.jobs import IndexSummary
from eoforge.index.streams import StreamReader, commit_streams, compress_archive, compress_shards, plan_streams
from eoforge.methods import get_method
from eoforge.methods.codecs import coder_of
from eoforge.storage.addresses import TableRef, open_table
from tests.services.compression.fixtures import write_codec_bundle

FIRST, ALL = 5, 7
RATE = Rate(quality=3.0)


@dataclass(frozen=True)
class Archive:
    patches: str
    bundle: Bundle
    encoder: Encoder
    pairs: tuple[PatchPair, ...]

    def compress(self, streams: str, rate: Rate = RATE, version: int | None = None) -> IndexSummary:
        table = TableRef(self.patches, version)
        return compress_archive(self.bundle.uri, table, streams, rate, coder_of(self.encoder), self.encoder, 3)


@pytest.fixture(scope="module")
def pairs() -> tuple[PatchPair, ...]:
    return tuple(synthetic_pairs(ALL, seed=5))


@pytest.fixture
def archive(tmp_path: Path, pairs: tuple[PatchPair, ...]) -> Archive:
    patches = str(tmp_path / "patches.lance")
    lance.write_dataset(record_batch(pairs[:FIRST]), patches, schema=PATCHES)
    bundle = write_codec_bundle(str(tmp_path / "runs"), pairs, {"uri": patches, "version": 1})
    return Archive(patches, bundle, get_method("rs_jcif").load(bundle, "cpu"), pairs)


def rows_of(uri: str) -> dict[tuple[str, str], dict[str, object]]:
    rows = open_table(uri).to_table().to_pylist()
    found = {(row["patch_id"], row["modality"]): row for row in rows}
    assert len(found) == len(rows), "a key stands twice"
    return found


def test_every_patch_has_one_stream_per_sensor_with_its_code(archive: Archive, tmp_path: Path) -> None:
    uri = str(tmp_path / "streams.lance")
    made = archive.compress(uri)
    assert (made.patches, made.added, made.changed, made.skipped) == (FIRST, 2 * FIRST, 0, 0)
    rows = rows_of(uri)
    coder = coder_of(archive.encoder)
    for pair in archive.pairs[:FIRST]:
        for modality in ("s1", "s2"):
            row = rows[pair.meta.patch_id, modality]
            expected = coder.compress([from_pair(pair, (modality,))], RATE)[0]
            assert stored_codes(row["stream"], LIMITS)[modality].tolist() == [row["code"]]
            assert row["code"] == stored_codes(expected, LIMITS)[modality][0].tolist()
    # The same table is an index: searched as codes are, without decoding anything.
    snapshot = IndexSnapshot.open(TableRef(uri))
    assert (len(snapshot), snapshot.info.bundle_id) == (FIRST, archive.bundle.id)
    code = np.array(rows[archive.pairs[2].meta.patch_id, "s2"]["code"], dtype=np.uint8)
    distances = snapshot.search("s2", code[None], 1).distances
    assert distances[0, 0] == 0
    decoded = StreamReader(open_table(uri), coder).rasters([archive.pairs[0].meta.patch_id], ("s2",))
    assert decoded[archive.pairs[0].meta.patch_id]["s2"].georeference == from_pair(archive.pairs[0]).georeference


def test_a_run_goes_on_where_it_was_killed_and_repeats_nothing(archive: Archive, tmp_path: Path) -> None:
    uri = str(tmp_path / "streams.lance")
    table, coder = TableRef(archive.patches), coder_of(archive.encoder)
    plan = plan_streams(archive.bundle.uri, table, uri, RATE, 3)
    assert (plan.rows, plan.shards) == (FIRST, 2)
    compress_shards(uri, plan.job_id, 1, 1, coder, archive.encoder)
    with pytest.raises(StoreError, match="shard 0"):
        commit_streams(uri, plan.job_id)
    assert open_table(uri).count_rows() == 0, "half an archive is not shown"
    again = plan_streams(archive.bundle.uri, table, uri, RATE, 3)
    assert again == plan
    done = compress_shards(uri, plan.job_id, 0, 99, coder, archive.encoder)
    assert (done["shards"], done["skipped_shards"]) == (1, 1)
    first, second = (commit_streams(uri, plan.job_id) for _ in range(2))
    assert first.version == second.version
    assert len(rows_of(uri)) == 2 * FIRST
    assert archive.compress(uri).version == first.version
    assert len(rows_of(uri)) == 2 * FIRST


def test_new_patches_cost_themselves_alone(archive: Archive, tmp_path: Path) -> None:
    uri = str(tmp_path / "streams.lance")
    archive.compress(uri)
    lance.write_dataset(record_batch(archive.pairs[FIRST:]), archive.patches, schema=PATCHES, mode="append")
    grown = archive.compress(uri)
    assert (grown.patches, grown.added) == (ALL - FIRST, 2 * (ALL - FIRST))
    assert len(IndexSnapshot.open(TableRef(uri))) == ALL
    assert IndexSnapshot.open(TableRef(uri)).info.patches.version == grown.patches_version == 2


def test_bounded_streams_carry_the_codes_of_the_bundle(archive: Archive, tmp_path: Path) -> None:
    uri = str(tmp_path / "streams.lance")
    archive.compress(uri, Rate(max_error=MaxError(0, 0.0)))
    rows = rows_of(uri)
    reader = StreamReader(open_table(uri), coder_of(archive.encoder))
    pair = archive.pairs[4]
    decoded = reader.rasters([pair.meta.patch_id], ("s1", "s2"))[pair.meta.patch_id]
    for modality, raster in decoded.items():
        assert all((raster.bands[b] == p).all() for b, p in from_pair(pair, (modality,)).bands.items())
    [learned] = coder_of(archive.encoder).compress([from_pair(pair)], Rate())  # the middle quality, that of codes
    assert rows[pair.meta.patch_id, "s1"]["code"] == stored_codes(learned, LIMITS)["s1"][0].tolist()


def test_one_table_holds_one_rate_of_one_bundle(archive: Archive, tmp_path: Path) -> None:
    uri = str(tmp_path / "streams.lance")
    archive.compress(uri)
    with pytest.raises(DataRefused, match="rate"):
        archive.compress(uri, Rate(quality=5.0))
    other = write_codec_bundle(str(tmp_path / "other"), archive.pairs[:3], {"uri": archive.patches, "version": 1})
    with pytest.raises(DataRefused, match="bundle"):
        plan_streams(other.uri, TableRef(archive.patches), uri, RATE)
    with pytest.raises(NotFound, match="index job"):
        commit_streams(uri, "archive-nothing")


def test_pixels_may_go_once_they_are_streams(archive: Archive, tmp_path: Path) -> None:
    uri = str(tmp_path / "streams.lance")
    archive.compress(uri)
    table = open_table(archive.patches)
    table.drop_columns([c for c in RASTER_COLUMNS if c != "reference_map"])
    moved = archive.compress(uri)
    assert (moved.patches, moved.added) == (0, 0)
    assert moved.patches_version == open_table(archive.patches).version
    assert len(IndexSnapshot.open(TableRef(uri))) == FIRST
    with pytest.raises(DataRefused, match="s2_10m"):
        archive.compress(str(tmp_path / "other.lance"))
