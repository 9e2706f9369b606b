"""torchgeo's keys and types on a Lance table, without the errors of torchgeo."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.utils.data import DataLoader

from eoforge.data.labels import INDEX, clc_to_classes
from eoforge.data.loading.torchgeo_view import as_torchgeo
from eoforge.data.records import PatchPair, record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.data.tables.commit import create_table
from eoforge.data.tables.schema import PATCHES
from eoforge.errors import UsageError
from eoforge.storage.addresses import join, storage_options


@pytest.fixture(scope="module")
def pairs() -> list[PatchPair]:
    return list(synthetic_pairs(16, seed=4))


@pytest.fixture(scope="module")
def table(pairs: list[PatchPair], tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("torchgeo") / "patches.lance")
    lance.write_dataset(pa.Table.from_batches([record_batch(pairs)]), uri, schema=PATCHES)
    return uri


def test_keys_types_and_values(table: str, pairs: list[PatchPair]) -> None:
    chosen = [p for p in pairs if p.meta.split == "train"]
    view = as_torchgeo(table, "train", "all")
    assert len(view) == len(chosen) == 8
    for pair, sample in zip(chosen, (view[i] for i in range(len(view))), strict=True):
        assert set(sample) == {"image_s1", "image_s2", "mask", "label"}
        assert sample["image_s1"].dtype == sample["image_s2"].dtype == torch.float32
        # Backscatter keeps its fractions, and VV (the stronger) comes first.
        assert np.array_equal(sample["image_s1"].numpy(), pair.s1)
        assert sample["image_s1"][0].mean() > sample["image_s1"][1].mean()
        assert np.array_equal(sample["image_s2"][1].numpy(), pair.s2_10m[0].astype(np.float32))  # B02 after B01
        assert sample["image_s2"].shape == (12, 120, 120)
        assert pair.reference_map is not None
        assert sample["mask"].dtype == torch.int64
        assert np.array_equal(sample["mask"][0].numpy(), clc_to_classes(pair.reference_map))
        assert sample["label"].dtype == torch.int64
        assert {i for i, v in enumerate(sample["label"].tolist()) if v} == {INDEX[n] for n in pair.meta.labels}


def test_unlabelled_codes_are_ignored_by_a_loss(table: str, pairs: list[PatchPair]) -> None:
    values = torch.cat([as_torchgeo(table, s, "s1")[0]["mask"].unique() for s in ("train", "val", "test")])
    assert all(v < 19 or v == 255 for v in values.tolist())


@pytest.mark.parametrize(("bands", "channels"), [("s1", 2), ("s2", 12)])
def test_one_modality_is_called_image(table: str, bands: str, channels: int) -> None:
    sample = as_torchgeo(table, "test", bands)[0]
    assert set(sample) == {"image", "mask", "label"}
    assert sample["image"].shape == (channels, 120, 120)


def test_val_means_validation_and_unknown_names_raise(table: str) -> None:
    assert len(as_torchgeo(table, "val")) == len(as_torchgeo(table, "validation")) == 4
    for wrong in ({"split": "dev"}, {"bands": "rgb"}, {"split": ""}):
        with pytest.raises(UsageError, match="expected a split"):
            as_torchgeo(table, **wrong)
    with pytest.raises(IndexError):
        as_torchgeo(table, "val")[4]


def test_order_repeats_and_transforms(table: str) -> None:
    view = as_torchgeo(table, "train", "s1", transforms=lambda s: {**s, "image": s["image"] * 2})
    plain = as_torchgeo(table, "train", "s1")
    for sample, i in zip(view.__getitems__([5, 0, 5]), (5, 0, 5), strict=True):
        assert torch.equal(sample["image"], plain[i]["image"] * 2)
    assert torch.equal(plain[-1]["image"], plain[7]["image"])


@pytest.fixture
def stored(pairs: list[PatchPair], store_uri: str) -> str:
    """The table in a folder and on a real S3 server."""
    uri = join(store_uri, "patches.lance")
    create_table(uri, PATCHES).insert(record_batch(pairs), storage_options=storage_options(uri))
    return uri


FORKED = """
import sys
from torch.utils.data import DataLoader
from eoforge.data.loading.torchgeo_view import as_torchgeo

view = as_torchgeo(sys.argv[1], "train")
view[0]
next(iter(DataLoader(view, batch_size=4, num_workers=2, multiprocessing_context="fork", timeout=60)))
"""


def test_forked_workers_are_refused_with_the_way_out(stored: str) -> None:
    """A process of its own, as a user's. Unrefused, such workers wait for ever now and then."""
    made = subprocess.run([sys.executable, "-c", FORKED, stored], capture_output=True, text=True, timeout=300)
    assert made.returncode == 1
    assert "cannot be read in a forked process" in made.stderr
    assert 'multiprocessing_context="forkserver"' in made.stderr


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_started_workers_open_the_version_of_their_parent(pairs: list[PatchPair], tmp_path: Path, method: str) -> None:
    uri = str(tmp_path / "patches.lance")
    first = create_table(uri, PATCHES)
    first.insert(record_batch(pairs))
    view = as_torchgeo(uri, "train", "s1")
    lance.dataset(uri).delete("true")  # a newer version without patches
    loader = DataLoader(view, batch_size=4, num_workers=2, multiprocessing_context=method, timeout=120)
    images = torch.cat([batch["image"] for batch in loader])
    assert torch.equal(images, torch.stack([view[i]["image"] for i in range(8)]))


def test_missing_maps_are_all_ignore(pairs: list[PatchPair], tmp_path: Path) -> None:
    uri = str(tmp_path / "t.lance")
    bare = [PatchPair(p.meta, p.s2_10m, p.s2_20m, p.s2_60m, p.s1, None) for p in pairs[:4]]
    lance.write_dataset(pa.Table.from_batches([record_batch(bare)]), uri, schema=PATCHES)
    assert (as_torchgeo(uri, "train")[0]["mask"] == 255).all()
