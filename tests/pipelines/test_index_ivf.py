"""The pipeline that builds a vector index over codes, run for real by kfp.local."""

from __future__ import annotations

from pathlib import Path

import lance

from eoforge.data.records import record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.data.tables.schema import PATCHES
from eoforge.index.ivf.search import IvfSnapshot
from eoforge.storage.addresses import TableRef
from pipelines.run_local import run_local
from tests.services.compression.fixtures import write_codec_bundle

COUNT = 5


def test_codes_get_an_index_with_measured_recall(tmp_path: Path) -> None:
    pairs = tuple(synthetic_pairs(COUNT, seed=2))
    patches = str(tmp_path / "patches.lance")
    lance.write_dataset(record_batch(pairs), patches, schema=PATCHES)
    bundle = write_codec_bundle(str(tmp_path / "runs"), pairs, {"uri": patches, "version": 1})
    codes = str(tmp_path / "codes-{bundle}.lance")
    params = {"bundle": bundle.uri, "table": patches, "codes": codes, "shard_rows": 3}
    made = run_local("index_ivf", tmp_path / "kfp", params)
    opened = IvfSnapshot.open(TableRef(made.outputs["codes_table"], int(made.outputs["codes_version"])))
    assert bundle.short_id in opened.uri
    assert opened.ivf is not None
    assert (len(opened), opened.ivf.counts, opened.ivf.recall) == (COUNT, {"s1": COUNT, "s2": COUNT}, {1: 1.0})
    query = opened.code_of_row(opened.row_of(pairs[0].meta.patch_id, "s2"), "s2")
    found = opened.search("s2", query[None], COUNT, None, 0.5)
    assert (found.distances[0, 0], found.exact, found.candidates) == (0, False, COUNT)
    metrics = made.find("commit-ivf", "metrics").metadata
    assert (metrics["partitions"], metrics["recall_at_1_partitions"]) == (1, 1.0)
