"""Indexing: complete, exactly once, resumable, incremental; locally and on S3."""

from __future__ import annotations

import lance
import numpy as np
import pytest

from eoforge.errors import BundleError, DataRefused, NotFound, StoreError, UsageError
from eoforge.hashing.lengths import MAX_CODE_BITS
from eoforge.index.build import build_index, commit_index, encode_shards, plan_index
from eoforge.index.info import IndexInfo
from eoforge.storage.addresses import TableRef, join, open_table
from tests.index.conftest import PixelEncoder, changed, expected_code, make_bundle, write_patches


def codes_of(uri):
    rows = open_table(uri).to_table().to_pylist()
    assert len({(r["patch_id"], r["modality"]) for r in rows}) == len(rows)
    return {(r["patch_id"], r["modality"]): bytes(r["code"]) for r in rows}


def expected_codes(pairs):
    return {(p.meta.patch_id, m): expected_code(p, m).tobytes() for p in pairs for m in ("s1", "s2")}


def test_every_patch_gets_a_code_per_modality(archive, pairs, encoder, store_uri):
    patches, bundle = archive
    codes = join(store_uri, "codes.lance")
    summary = build_index(bundle.uri, TableRef(patches), codes, encoder, shard_rows=16)
    assert (summary.patches, summary.added, summary.changed, summary.skipped) == (40, 80, 0, 0)
    assert codes_of(codes) == expected_codes(pairs)
    table = open_table(TableRef(codes, summary.version))
    info = IndexInfo.of(table.schema, codes)
    assert (info.bundle_id, info.bits, info.method) == (bundle.id, 16, "ss_cm_rsir")
    assert info.patches == TableRef(patches, open_table(patches).version)
    row = table.to_table(filter="modality = 's1'").to_pylist()[0]
    pair = next(p for p in pairs if p.meta.patch_id == row["patch_id"])
    np.testing.assert_allclose(row["embedding"], pair.s1.reshape(-1)[:3])

    again = build_index(bundle.uri, TableRef(patches), codes, PixelEncoder(), shard_rows=16)
    assert again == summary
    assert f"codes-{plan_index(bundle.uri, TableRef(patches), codes, 16).job_id}" in open_table(patches).tags.list()


def test_killed_between_shards_it_goes_on_and_writes_nothing_twice(archive, pairs, encoder, store_uri):
    patches, bundle = archive
    codes = join(store_uri, "codes.lance")
    plan = plan_index(bundle.uri, TableRef(patches), codes, shard_rows=16)
    assert (plan.shards, plan.rows) == (3, 40)
    encode_shards(codes, plan.job_id, 1, 1, encoder)
    with pytest.raises(StoreError, match="shard 0"):
        commit_index(codes, plan.job_id)
    assert open_table(codes).count_rows() == 0

    later = PixelEncoder()  # another process, after the first was killed: the same plan, the other shards
    assert plan_index(bundle.uri, TableRef(patches), codes, shard_rows=16) == plan
    done = encode_shards(codes, plan.job_id, 0, 99, later)
    assert done == {"shards": 2, "codes": 48, "skipped_shards": 1}
    assert not set(encoder.encoded) & set(later.encoded)
    versions = {commit_index(codes, plan.job_id) for _ in range(3)}
    assert len(versions) == 1
    assert codes_of(codes) == expected_codes(pairs)


def test_a_newer_version_encodes_only_what_is_missing_or_changed(tmp_path, pairs, encoder):
    patches, codes = str(tmp_path / "patches.lance"), str(tmp_path / "codes.lance")
    first = write_patches(patches, pairs[:30])
    bundle = make_bundle(str(tmp_path / "runs"), patches, first)
    build_index(bundle.uri, TableRef(patches), codes, encoder, shard_rows=16)

    write_patches(patches, pairs[30:])
    replaced = changed(pairs[4])
    table = lance.dataset(patches)
    table.delete(f"patch_id = '{replaced.meta.patch_id}'")
    write_patches(patches, [replaced])
    later = PixelEncoder()
    summary = build_index(bundle.uri, TableRef(patches), codes, later, shard_rows=16)
    assert (summary.patches, summary.added, summary.changed) == (11, 20, 2)
    assert set(later.encoded) == {f"{p.meta.patch_id}/{m}" for p in [pairs[4], *pairs[30:]] for m in ("s1", "s2")}
    assert codes_of(codes) == expected_codes([*pairs[:4], replaced, *pairs[5:]])
    assert IndexInfo.of(open_table(codes).schema, codes).patches.version == open_table(patches).version

    with pytest.raises(UsageError, match="newer"):
        plan_index(bundle.uri, TableRef(patches, first), codes)


def test_what_does_not_belong_together_is_refused(tmp_path, pairs, encoder):
    patches, codes = str(tmp_path / "patches.lance"), str(tmp_path / "codes.lance")
    version = write_patches(patches, pairs[:2])
    bundle = make_bundle(str(tmp_path / "runs"), patches, version)
    plan = plan_index(bundle.uri, TableRef(patches), codes)
    other = make_bundle(str(tmp_path / "runs"), patches, version, seed=1)
    with pytest.raises(DataRefused, match="another table of codes"):
        plan_index(other.uri, TableRef(patches), codes)
    with pytest.raises(DataRefused, match="no table of codes"):
        plan_index(bundle.uri, TableRef(patches), patches)
    with pytest.raises(NotFound, match="no index job"):
        encode_shards(codes, "index-0", 0, 1, encoder)
    with pytest.raises(UsageError, match="at least 1"):
        plan_index(bundle.uri, TableRef(patches), codes, shard_rows=0)
    encoder.bits = MAX_CODE_BITS
    with pytest.raises(BundleError, match="16 bits"):
        encode_shards(codes, plan.job_id, 0, 1, encoder)


def test_two_workers_of_one_shard_leave_one_set_of_files(tmp_path, pairs, encoder):
    patches, codes = str(tmp_path / "patches.lance"), str(tmp_path / "codes.lance")
    bundle = make_bundle(str(tmp_path / "runs"), patches, write_patches(patches, pairs[:8]))
    plan = plan_index(bundle.uri, TableRef(patches), codes)

    class Overtaken(PixelEncoder):
        def encode(self, batch, modality):
            if modality == "s2":  # the twin finishes while this one is still at work
                encode_shards(codes, plan.job_id, 0, 1, PixelEncoder())
            return super().encode(batch, modality)

    encode_shards(codes, plan.job_id, 0, 1, Overtaken())
    assert len(list((tmp_path / "codes.lance" / "data").iterdir())) == 1
    commit_index(codes, plan.job_id)
    assert codes_of(codes) == expected_codes(pairs[:8])
