"""The reader of LMDB files: equal to the library on sound files, and a refusal of every damaged one."""

from __future__ import annotations

import random
from pathlib import Path

import lmdb
import pytest

from eoforge.data.archives.layout import MAX_FILE_BYTES
from eoforge.data.archives.lmdb_file import LmdbFile
from eoforge.data.archives.open import open_archive
from eoforge.errors import DataRefused
from tests.data.archives.archive_files import make_pairs
from tests.data.archives.test_folders import write_lmdb

PAGE = 4096


def write(folder: Path, values: dict[bytes, bytes], deleted: tuple[bytes, ...] = ()) -> Path:
    with lmdb.open(str(folder), map_size=1 << 28) as environment:
        with environment.begin(write=True) as transaction:
            for key, value in values.items():
                transaction.put(key, value)
        with environment.begin(write=True) as transaction:
            for key in deleted:
                assert transaction.delete(key)
    return folder / "data.mdb"


def random_values(count: int, seed: int = 0) -> dict[bytes, bytes]:
    rng = random.Random(seed)
    sizes = [0, 1, 2000, 2100, PAGE - 16, PAGE, 3 * PAGE]
    return {
        f"{rng.getrandbits(64):x}_{i}".encode() * rng.randint(1, 9): rng.randbytes(rng.choice(sizes))
        for i in range(count)
    }


@pytest.mark.parametrize("count", [0, 1, 20, 5000])
def test_every_value_is_that_of_the_library(tmp_path: Path, count: int) -> None:
    values = random_values(count)
    deleted = tuple(values)[3::7]
    path = write(tmp_path, values, deleted)
    file = LmdbFile(path)
    with lmdb.open(str(tmp_path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        assert transaction.stat()["depth"] >= {0: 0, 1: 1, 20: 2, 5000: 3}[count]
        for key in values:
            assert file.get(key, MAX_FILE_BYTES) == transaction.get(key)
    assert all(file.get(key, MAX_FILE_BYTES) is None for key in deleted)
    for absent in (b"", b"0", b"zzz", *(key + b"0" for key in values), *(key[:-1] for key in values)):
        assert file.get(absent, MAX_FILE_BYTES) is None


def test_a_value_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    file = LmdbFile(write(tmp_path, {b"a": bytes(5000)}))
    with pytest.raises(DataRefused, match="a has 5000 bytes, beyond the limit of 4999"):
        file.get(b"a", 4999)


@pytest.mark.parametrize("kept", [0, 1, 100, PAGE, PAGE + 16, 2 * PAGE - 1, 2 * PAGE, 3 * PAGE, 0.5, 0.9, -PAGE, -1])
def test_a_file_that_was_cut_off_is_refused_as_truncated(tmp_path: Path, kept: float) -> None:
    """The library ends the process by SIGBUS on most of these."""
    folder = write_lmdb(tmp_path / "lmdb", make_pairs())
    data = (folder / "data.mdb").read_bytes()
    (folder / "data.mdb").write_bytes(data[: int(len(data) * kept) if 0 < kept < 1 else int(kept)])
    archive = open_archive(str(folder))
    with pytest.raises(DataRefused, match="truncated"):
        list(archive.read(archive.metadata()))


def test_a_file_that_is_cut_off_while_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, random_values(50))
    file = LmdbFile(path)
    with open(path, "r+b") as opened:
        opened.truncate(2 * PAGE)
    with pytest.raises(DataRefused, match="truncated"):
        file.get(b"a", MAX_FILE_BYTES)


def test_a_value_that_claims_bytes_beyond_the_end(tmp_path: Path) -> None:
    """The library hands out memory beyond the end of the file, and the process ends by SIGBUS."""
    path = write(tmp_path, {b"key": bytes(5000)})
    data = bytearray(path.read_bytes())
    node = data.index(b"key") - 8
    assert int.from_bytes(data[node : node + 2], "little") == 5000
    data[node + 2] = 0x10  # upper half of the size: one MiB more
    path.write_bytes(data)
    with pytest.raises(DataRefused, match="does not hold the 1053576 bytes of key"):
        LmdbFile(path).get(b"key", MAX_FILE_BYTES)


def test_a_damaged_file_gives_a_value_or_a_refusal(tmp_path: Path) -> None:
    """Bits flipped in headers, offsets and entries."""
    values = random_values(300)
    path = write(tmp_path, values)
    sound = path.read_bytes()
    rng = random.Random(1)
    refused = 0
    for _ in range(300):
        data = bytearray(sound)
        for _ in range(rng.choice([4, 64, 256])):
            page = rng.randrange(len(data) // PAGE)
            data[page * PAGE + rng.choice([rng.randrange(200), rng.randrange(PAGE)])] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            file = LmdbFile(path)
            for key in list(values)[:40]:
                file.get(key, MAX_FILE_BYTES)
        except DataRefused:
            refused += 1
    assert refused > 50


def test_a_tree_with_a_circle_ends(tmp_path: Path) -> None:
    """A branch page whose children are itself."""
    path = write(tmp_path, random_values(100))
    data = bytearray(path.read_bytes())
    branch = next(
        p for p in range(2, len(data) // PAGE) if data[p * PAGE : p * PAGE + 12] == p.to_bytes(10, "little") + b"\1\0"
    )
    lower = int.from_bytes(data[branch * PAGE + 12 : branch * PAGE + 14], "little")
    for place in range(branch * PAGE + 16, branch * PAGE + lower, 2):
        node = branch * PAGE + int.from_bytes(data[place : place + 2], "little")
        data[node : node + 4] = branch.to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(DataRefused, match="levels"):
        LmdbFile(path).get(b"a", MAX_FILE_BYTES)
