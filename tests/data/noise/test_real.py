"""Noise as it happens: shifted maps, and labels of BigEarthNet v1."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from eoforge.cli import main
from eoforge.data.labels import IGNORE_INDEX, INDEX, mask_of, multi_hot
from eoforge.data.loading.loader import PatchFilter, PatchLoader
from eoforge.data.names import tile_of
from eoforge.data.noise.derived import provenance_of
from eoforge.data.noise.maps import shifted
from eoforge.data.noise.real import _V1_NAMES, add_shift, add_v1_labels, read_v1_labels
from eoforge.data.records import record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.data.tables.schema import PATCHES
from eoforge.errors import DataRefused, UsageError
from eoforge.storage.addresses import open_table
from tests.conftest import SHARED

COUNT = 40


@pytest.fixture(scope="module")
def pairs():
    return list(synthetic_pairs(COUNT, seed=5))


@pytest.fixture
def table(tmp_path, pairs):
    uri = str(tmp_path / "patches.lance")
    lance.write_dataset(record_batch(pairs), uri, schema=PATCHES)
    return uri


def _training(table):
    (batch,) = PatchLoader(table, batch_size=COUNT, filter=PatchFilter(splits=("train",)), reference_map=True)
    labels = multi_hot(batch.label_mask.numpy().astype(np.uint32)) > 0
    return dict(zip(batch.patch_id, zip(labels, batch.reference_map.numpy(), strict=True), strict=True))


def test_maps_of_a_tile_move_together_and_take_their_scene_labels_along(table):
    before = _training(table)
    made = add_shift(table, 6, seed=1)
    after = _training(str(made.table))
    every = {(r, c) for r in range(-6, 7) for c in range(-6, 7)}
    moves: dict[str, set[tuple[int, int]]] = {}
    for name, (labels, map_HW) in after.items():
        clean = before[name][1]
        fitting = {move for move in every if (shifted(clean, *move) == map_HW).all()}
        moves[tile_of(name)] = moves.get(tile_of(name), every) & fitting
        assert set(np.flatnonzero(labels)) == set(np.unique(map_HW)) - {IGNORE_INDEX}
    assert all(any(np.hypot(*move) == pytest.approx(6, abs=0.75) for move in left) for left in moves.values())
    assert len({tuple(left) for left in moves.values() if len(left) == 1}) > 1
    assert made.rates.added == 0
    assert provenance_of(open_table(made.table))["noise"] == {"kind": "shifted", "pixels": 6, "seed": 1}


def test_a_class_that_leaves_a_map_leaves_its_scene_labels(table):
    before = _training(table)
    made = add_shift(table, 110)
    assert 0 < made.rates.removed < 1
    lost = 0
    for name, (labels, map_HW) in _training(str(made.table)).items():
        assert set(np.flatnonzero(labels)) == set(np.unique(map_HW)) - {IGNORE_INDEX}
        lost += (before[name][0] & ~labels).sum()
    assert lost / sum(labels.sum() for labels, _ in before.values()) == pytest.approx(made.rates.removed)


def test_shifts_that_cannot_be_are_named(table, tmp_path, pairs):
    with pytest.raises(UsageError, match="at least 1 pixel; got 0"):
        add_shift(table, 0)
    without = [dataclasses.replace(pair, reference_map=None) for pair in pairs]
    none = str(tmp_path / "none.lance")
    lance.write_dataset(record_batch(without), none, schema=PATCHES)
    with pytest.raises(DataRefused, match="no patch of the training split has a reference map"):
        add_shift(none, 3)


def _v1(folder: Path, name: str, labels: list[str]) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / f"{name}_labels_metadata.json").write_text(json.dumps({"labels": labels}))


def test_labels_of_v1_are_those_of_the_same_land_cover_codes(table, tmp_path, pairs):
    names = [pair.meta for pair in pairs if pair.meta.split == "train"]
    folder = tmp_path / "BigEarthNet-v1.0"
    _v1(folder, names[0].s2v1_name, ["Rice fields", "Olive groves", "Bare rock"])
    _v1(folder, names[1].s2v1_name, ["Airports"])  # no class of reBEN: the patch keeps its labels
    made = add_v1_labels(table, str(folder))
    after = _training(str(made.table))
    assert set(np.flatnonzero(after[names[0].patch_id][0])) == {INDEX["Arable land"], INDEX["Permanent crops"]}
    assert made.patches == 1
    before = _training(f"{table}@1")
    assert all((after[m.patch_id][0] == before[m.patch_id][0]).all() for m in names[1:])
    kept = provenance_of(open_table(made.table))
    assert kept["noise"]["patches"] == 1
    assert kept["realised"]["patches"] == 1.0  # over the patches that v1 knows


def test_folders_and_files_that_are_no_v1_are_named(table, tmp_path, pairs):
    with pytest.raises(DataRefused, match=r"has labels of none of the \d+ training patches"):
        add_v1_labels(table, str(tmp_path))
    for content, message in (
        (b"[", "no JSON with a list of labels"),
        (b"[1]", "no JSON with a list of labels"),
        (b'{"labels": ["Forest"]}', "43 classes of v1; got 'Forest'"),
        (b"{}", "expected 'labels'"),
        (b'{"labels": 3}', "no JSON with a list of labels"),
        (b'{"labels": [[]]}', "no JSON with a list of labels"),
    ):
        with pytest.raises(DataRefused, match=message):
            read_v1_labels(content, "x.json")


def test_every_class_of_v1_has_a_name():
    assert len(set(_V1_NAMES.values())) == len(_V1_NAMES) == 43
    assert sum(bool(read_v1_labels(json.dumps({"labels": [n]}).encode(), "x").any()) for n in _V1_NAMES.values()) == 32


@pytest.mark.skipif(not (SHARED / "bigearthnet-v1-sample").is_dir(), reason="no real patches of BigEarthNet v1 here")
def test_real_patches_of_v1_have_mostly_the_labels_of_reben():
    known = {}
    for path in sorted((SHARED / "bigearthnet-v1-sample" / "BigEarthNet-v1.0").glob("*/*_labels_metadata.json")):
        known[path.parent.name] = read_v1_labels(path.read_bytes(), str(path))
    rows = []
    for file in sorted((SHARED / "reben-metadata").glob("*.parquet")):
        metadata = pq.read_table(file, columns=["s2v1_name", "labels"])
        rows += metadata.filter(pc.is_in(metadata["s2v1_name"], pa.array(list(known)))).to_pylist()
    assert len(rows) == len(known) == 14
    clean = multi_hot(np.array([mask_of(row["labels"]) for row in rows], dtype=np.uint32)) > 0
    old = np.stack([known[row["s2v1_name"]] for row in rows])
    assert (clean & old).sum() / (clean | old).sum() > 0.9


def test_the_command_asks_for_what_a_kind_needs(table, tmp_path, capsys):
    assert main(["noise", table, "--kind", "shifted"]) == 2
    assert "noise of kind shifted needs --pixels" in capsys.readouterr().err
    assert main(["noise", table, "--kind", "bigearthnet_v1"]) == 2
    assert "needs --v1" in capsys.readouterr().err
    assert main(["noise", table, "--kind", "additive"]) == 2
    assert "needs --rate" in capsys.readouterr().err
    assert main(["noise", table, "--kind", "shifted", "--pixels", "2", "--json"]) == 0
    assert '"added": 0.0' in capsys.readouterr().out
