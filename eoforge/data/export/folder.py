"""Place of an export: written beside it and renamed when it is complete, so that no half of it is ever there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eoforge.errors import UsageError
from eoforge.storage.addresses import is_s3, normalise


@contextmanager
def new_path(out: str) -> Iterator[Path]:
    """Path to write, renamed to ``out`` at the end of the block and deleted after an error.

    Raises:
        UsageError: ``out`` exists already or is no local path.
    """
    if is_s3(out):
        raise UsageError(f"exports are written to a local path, got {out}; copy the result to the store")
    target = Path(normalise(out))
    if target.exists():
        raise UsageError(f"{target} exists already; choose another path or delete it first")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    _remove(part)
    try:
        yield part
        part.rename(target)
    finally:
        _remove(part)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
