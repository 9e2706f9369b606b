"""The pipeline that turns patches into streams, run for real by kfp.local."""

from __future__ import annotations

from pathlib import Path

import lance

from eoforge.data.records import record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.data.tables.schema import PATCHES
from eoforge.index.catalog import IndexSnapshot
from eoforge.storage.addresses import TableRef, open_table
from pipelines.run_local import run_local
from tests.services.compression.fixtures import write_codec_bundle

COUNT = 5


def test_an_archive_becomes_streams_once(tmp_path: Path) -> None:
    pairs = tuple(synthetic_pairs(COUNT, seed=2))
    patches = str(tmp_path / "patches.lance")
    lance.write_dataset(record_batch(pairs), patches, schema=PATCHES)
    bundle = write_codec_bundle(str(tmp_path / "runs"), pairs, {"uri": patches, "version": 1})
    params = {
        "bundle": bundle.uri,
        "table": patches,
        "streams": str(tmp_path / "streams-{bundle}.lance"),
        "quality": "2.5",
        "shard_rows": 3,
    }
    made = run_local("compress_archive", tmp_path / "kfp", params)
    table = open_table(TableRef(made.outputs["streams_table"], int(made.outputs["streams_version"])))
    assert bundle.short_id in made.outputs["streams_table"]
    keys = [(row["patch_id"], row["modality"]) for row in table.to_table(columns=["patch_id", "modality"]).to_pylist()]
    assert sorted(keys) == sorted((pair.meta.patch_id, m) for pair in pairs for m in ("s1", "s2"))
    assert len(IndexSnapshot.open(TableRef(table.uri))) == COUNT
    assert made.find("commit-compress", "metrics").metadata["streams"] == 2 * COUNT
