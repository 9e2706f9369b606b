"""rico-hdl databases: damage is reported like that of files; a damaged database is refused as a whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lmdb
import numpy as np
import pytest
from safetensors.numpy import load, save

from eoforge.data.archives.geotiff import write_geotiff
from eoforge.data.archives.layout import MAX_FILE_BYTES
from eoforge.data.archives.lmdbs import LmdbArchive
from eoforge.data.archives.open import open_archive
from eoforge.data.bands import S2_BANDS
from eoforge.data.records import Reason
from eoforge.errors import DataRefused, NotFound
from tests.data.archives.archive_files import make_pairs
from tests.data.archives.test_folders import write_lmdb

VICTIM = 2
Change = Callable[[dict[str, np.ndarray]], bytes]


def edited(**tensors: np.ndarray) -> Change:
    return lambda value: save({**value, **tensors})


def without(name: str) -> Change:
    return lambda value: save({k: v for k, v in value.items() if k != name})


DAMAGES: dict[str, tuple[Reason, str, Change | None]] = {
    "no S2": (Reason.S2_MISSING, "s2", None),
    "no S1": (Reason.S1_MISSING, "s1", None),
    "no band": (Reason.MISSING_BAND, "s2", without("B8A")),
    "no VH": (Reason.MISSING_BAND, "s1", without("VH")),
    "empty value": (Reason.UNREADABLE, "s1", lambda value: b""),
    "cut value": (Reason.UNREADABLE, "s2", lambda value: save(value)[:-7]),
    "a TIFF": (Reason.UNREADABLE, "map", lambda value: write_geotiff(None, value["Data"], 32633, 0, 0, 10)),
    "too large": (Reason.UNREADABLE, "map", edited(padding=np.zeros(MAX_FILE_BYTES, np.uint8))),
    "huge header": (Reason.UNREADABLE, "s1", lambda value: b"\xff" * 8 + save(value)),
    "shape": (Reason.WRONG_SHAPE, "s2", edited(B01=np.ones((30, 30), np.uint16))),
    "dtype": (Reason.WRONG_DTYPE, "s1", edited(VV=np.ones((120, 120), np.int32))),
    "half precision": (Reason.WRONG_DTYPE, "s1", edited(VH=np.ones((120, 120), np.float16))),
    "zero": (Reason.NODATA_S2, "s2", edited(B12=np.zeros((60, 60), np.uint16))),
    "NaN": (Reason.NONFINITE_S1, "s1", edited(VV=np.full((120, 120), np.nan, np.float32))),
    "code": (Reason.UNKNOWN_CLC, "map", edited(Data=np.full((120, 120), 100, np.uint16))),
    "label": (Reason.LABEL_MISMATCH, "map", edited(Data=np.full((120, 120), 521, np.uint16))),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_lmdb(tmp_path / "converted" / "lmdb", make_pairs())


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_values(folder: Path, name: str) -> None:
    reason, what, change = DAMAGES[name]
    meta = make_pairs()[VICTIM].meta
    key = {"s2": meta.patch_id, "s1": meta.s1_name, "map": f"{meta.patch_id}_reference_map"}[what].encode()
    with lmdb.open(str(folder), map_size=1 << 27) as environment, environment.begin(write=True) as transaction:
        value = transaction.get(key)
        if change is None:
            transaction.delete(key)
        else:
            transaction.put(key, change(load(value)))
    archive = open_archive(str(folder))
    results = list(archive.read(archive.metadata()))
    defects = [d for r in results for d in r.defects]
    assert [(d.patch_id, d.reason) for d in defects] == [(meta.patch_id, reason)]
    assert defects[0].file.endswith(key.decode())
    assert sum(r.pair is not None for r in results) == 5


def test_bands_are_found_by_name_in_any_order(folder: Path) -> None:
    pair = make_pairs()[0]
    with lmdb.open(str(folder), readonly=True, lock=False) as environment, environment.begin() as transaction:
        stored = load(transaction.get(pair.meta.patch_id.encode()))
    assert set(stored) == set(S2_BANDS)
    archive = open_archive(str(folder))
    read = next(iter(archive.read(archive.metadata()))).pair
    assert read is not None
    np.testing.assert_array_equal(read.s2_20m[3], stored["B8A"])
    np.testing.assert_array_equal(read.s2_60m[1], stored["B09"])


def test_nothing_is_written_beside_the_database(folder: Path) -> None:
    (folder / "lock.mdb").unlink()
    archive = open_archive(str(folder))
    assert len(list(archive.read(archive.metadata()))) == 6
    assert [p.name for p in folder.iterdir()] == ["data.mdb"]


def test_a_damaged_database_is_refused_as_a_whole(folder: Path) -> None:
    (folder / "data.mdb").write_bytes(b"no database" * 1000)
    archive = open_archive(str(folder))
    with pytest.raises(DataRefused, match="LMDB"):
        list(archive.read(archive.metadata()))


def test_two_databases_in_a_folder_are_not_guessed_between(folder: Path) -> None:
    write_lmdb(folder.parent / "second", make_pairs()[:1])
    with pytest.raises(DataRefused, match="no archive"):
        open_archive(str(folder.parent))
    with pytest.raises(NotFound):
        LmdbArchive(str(folder.parent))
    assert open_archive(str(folder)).uri == str(folder)
