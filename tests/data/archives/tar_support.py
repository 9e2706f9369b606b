"""Archives packed as the official tar files."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import zstandard

KINDS = ("BigEarthNet-S2", "BigEarthNet-S1", "Reference_Maps")


def pack(source: Path, target: Path, compressed: bool, fmt: int = tarfile.GNU_FORMAT, shuffle: bool = False) -> Path:
    """The folders of an archive as tar files, with the metadata beside them."""
    target.mkdir(parents=True)
    for path in source.glob("*.parquet"):
        (target / path.name).write_bytes(path.read_bytes())
    for kind in KINDS:
        paths = sorted(p for p in (source / kind).rglob("*") if p.is_file() or not shuffle)
        if shuffle:
            random.Random(3).shuffle(paths)
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w", format=fmt) as tar:
            for path in paths:
                tar.add(path, path.relative_to(source).as_posix(), recursive=False)
        write_tar(target, kind, data.getvalue(), compressed)
    return target


def write_tar(target: Path, kind: str, data: bytes, compressed: bool) -> None:
    if compressed:
        (target / f"{kind}.tar.zst").write_bytes(zstandard.ZstdCompressor(level=6).compress(data))
    else:
        (target / f"{kind}.tar").write_bytes(data)
