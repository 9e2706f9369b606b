"""Derived versions: training labels beside the clean ones, read by loaders, and no obstacle to ingestion."""

from __future__ import annotations

from threading import Thread

import lance
import numpy as np
import pytest

from eoforge.data.ingest.run import ingest
from eoforge.data.labels import CLASSES, IGNORE_INDEX, mask_of, multi_hot
from eoforge.data.loading.loader import PatchFilter, PatchLoader
from eoforge.data.noise.derived import add_noise, derive, provenance_of, training_labels
from eoforge.data.noise.scene import Noise
from eoforge.data.records import record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.data.tables.schema import PATCHES, TRAIN_LABEL_MASK, TRAIN_REFERENCE_MAP
from eoforge.errors import ConflictError, DataRefused
from eoforge.storage.addresses import TableRef, open_table
from tests.data.ingest.ingest_support import archive_of

COUNT = 40


@pytest.fixture(scope="module")
def pairs():
    return list(synthetic_pairs(COUNT, seed=5))


@pytest.fixture
def table(tmp_path, pairs):
    uri = str(tmp_path / "patches.lance")
    lance.write_dataset(record_batch(pairs), uri, schema=PATCHES, max_rows_per_file=16)
    return uri


def _labels(table, split, reference_map=False):
    loader = PatchLoader(table, batch_size=COUNT, filter=PatchFilter(splits=(split,)), reference_map=reference_map)
    (batch,) = loader
    return dict(zip(batch.patch_id, multi_hot(batch.label_mask.numpy().astype(np.uint32)), strict=True)), batch


def test_loaders_read_the_noise_and_clean_labels_stay(table, pairs):
    before, _ = _labels(table, "train")
    made = add_noise(table, Noise("class_change", 0.4))
    after, _ = _labels(str(made.table), "train")
    wrong = sum(float(np.abs(after[name] - before[name]).sum()) for name in before)
    assert made.patches == len(before)
    assert wrong / sum(row.sum() for row in before.values()) == pytest.approx(made.rates.removed + made.rates.added)
    assert 0.35 < made.rates.removed <= 0.4
    for split in ("validation", "test"):
        assert _labels(str(made.table), split)[0].keys() == _labels(f"{table}@1", split)[0].keys()
        clean, noisy = _labels(f"{table}@1", split)[0], _labels(str(made.table), split)[0]
        assert all((clean[name] == noisy[name]).all() for name in clean)
    stored = {p.meta.patch_id: mask_of(p.meta.labels) for p in pairs}
    rows = open_table(made.table).to_table(columns=["patch_id", "label_mask"]).to_pylist()
    assert {row["patch_id"]: row["label_mask"] for row in rows} == stored
    kept = provenance_of(open_table(made.table))
    assert kept["noise"] == {"kind": "class_change", "rate": 0.4, "seed": 0, "images": 0.4}
    assert kept["realised"]["removed"] == made.rates.removed
    assert provenance_of(open_table(f"{table}@1")) is None


def test_noise_does_not_depend_on_the_order_of_the_rows(table, tmp_path, pairs):
    turned = str(tmp_path / "turned.lance")
    lance.write_dataset(record_batch(pairs[::-1]), turned, schema=PATCHES)
    for uri in (table, turned):
        add_noise(uri, Noise("mixed", 0.5, seed=3))
    assert {n: r.tolist() for n, r in _labels(table, "train")[0].items()} == {
        n: r.tolist() for n, r in _labels(turned, "train")[0].items()
    }


def test_pixel_maps_change_as_the_scene_labels_do(table):
    clean = _labels(table, "train", reference_map=True)[1]
    made = add_noise(table, Noise("class_change", 0.5), maps=True)
    noisy = _labels(str(made.table), "train", reference_map=True)[1]
    rows = noisy.label_mask.numpy()
    changed = rows != clean.label_mask.numpy()
    assert changed.sum() > 3
    for mask, map_HW, before in zip(rows, noisy.reference_map.numpy(), clean.reference_map.numpy(), strict=True):
        present = set(np.unique(map_HW)) - {IGNORE_INDEX}
        assert present == {c for c in range(len(CLASSES)) if mask >> c & 1}
        np.testing.assert_array_equal(map_HW == IGNORE_INDEX, before == IGNORE_INDEX)
    kept = open_table(made.table).to_table(columns=[TRAIN_REFERENCE_MAP])[TRAIN_REFERENCE_MAP]
    assert kept.null_count == COUNT - changed.sum()


def test_a_second_derivation_starts_from_the_clean_labels(table):
    first = add_noise(table, Noise("additive", 0.9), maps=True)
    second = add_noise(table, Noise("subtractive", 0.2))
    assert second.rates.added == 0
    assert TRAIN_REFERENCE_MAP not in open_table(second.table).schema.names
    assert provenance_of(open_table(first.table))["noise"]["kind"] == "additive"  # the earlier version is still there


def test_a_table_with_training_labels_still_grows(tmp_path):
    table = str(tmp_path / "patches.lance")
    ingest(archive_of(tmp_path / "a", 8), table)
    add_noise(table, Noise("class_change", 0.5))
    grown = ingest(archive_of(tmp_path / "b", 14), table)
    assert grown.added == 6
    rows = open_table(table).to_table(columns=["split", TRAIN_LABEL_MASK])
    assert rows.num_rows == 14
    assert rows[TRAIN_LABEL_MASK].null_count >= 6
    assert len(_labels(table, "train")[0]) == rows["split"].to_pylist().count("train")


def test_foreign_names_and_tables_without_training_patches_are_refused(table, tmp_path, pairs):
    names, labels = training_labels(open_table(table))
    with pytest.raises(DataRefused, match=r"1 of 2 labelled patches are not in the training split .*: nobody"):
        derive(table, {names[0]: labels[0], "nobody": labels[1]}, {})
    none = str(tmp_path / "none.lance")
    lance.write_dataset(record_batch([p for p in pairs if p.meta.split == "test"]), none, schema=PATCHES)
    with pytest.raises(DataRefused, match="no patch of the training split"):
        add_noise(none, Noise("additive", 0.1))
    with pytest.raises(DataRefused, match=r"scores lack \d+ of \d+ training patches"):
        add_noise(table, Noise("instance", 0.1), scores={names[0]: np.zeros(19)})


def test_a_writer_in_between_is_named_and_changes_nothing(table, pairs):
    names, labels = training_labels(open_table(table))
    more = list(synthetic_pairs(COUNT + 4, seed=5))[COUNT:]
    seen = []

    def rule(name, map_HW):
        if not seen:
            # A thread of its own: Lance's runtime does not start a second one in the thread of a UDF.
            writer = Thread(target=lance.write_dataset, args=(record_batch(more), table), kwargs={"mode": "append"})
            writer.start()
            writer.join()
            seen.append(name)
        return map_HW

    with pytest.raises(ConflictError, match="another writer changed"):
        derive(table, dict(zip(names, ~labels, strict=True)), {}, rule)
    assert TRAIN_LABEL_MASK not in open_table(TableRef(table)).schema.names
    assert open_table(TableRef(table)).count_rows() == COUNT + 4
