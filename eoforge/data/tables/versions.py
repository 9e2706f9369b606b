"""Versions of a table: when each was made, by which job, and what it changed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from eoforge.data.labels import multi_hot
from eoforge.data.tables.commit import JOB_PROPERTY, commit_counts
from eoforge.storage.addresses import TableRef, open_table

if TYPE_CHECKING:
    import lance

_KINDS = {
    "Overwrite": "created",
    "Append": "rows appended",
    "Merge": "rows or columns merged",
    "Delete": "rows deleted",
    "Update": "rows updated",
    "Rewrite": "compacted",
    "CreateIndex": "indexed",
    "Project": "columns changed",
    "Restore": "restored",
    "UpdateConfig": "settings changed",
}
_UNKNOWN = "not recorded"
_SHOWN = 100


@dataclass(frozen=True)
class TableVersion:
    """One version of a table.

    Attributes:
        version: Its number.
        at: When it was made, UTC.
        rows: Rows in it.
        kind: What was done, in words.
        job: Name of the bulk load that made it; empty for another write.
        added: Rows that the load added; None without a load.
        changed: Rows whose content the load replaced; None without a load.
    """

    version: int
    at: datetime
    rows: int
    kind: str
    job: str = ""
    added: int | None = None
    changed: int | None = None


@dataclass(frozen=True)
class VersionChange:
    """Difference of two versions of a patches table.

    Attributes:
        added: Number of patches that only the newer version has.
        removed: Number of patches that only the older version has.
        changed: Number of patches whose content differs.
        examples: The first names of each kind, by ``added``, ``removed`` and ``changed``.
        classes: Patches per class in the newer version minus those in the older one, ``[19]``.
    """

    added: int
    removed: int
    changed: int
    examples: dict[str, tuple[str, ...]]
    classes: npt.NDArray[np.int64]


def table_versions(uri: str, count: int = 20, before: int | None = None) -> tuple[list[TableVersion], bool]:
    """Versions of a table, newest first.

    Args:
        uri: The table.
        count: Largest number of versions.
        before: Only versions with smaller numbers; None for the newest ones.

    Returns:
        The versions, and whether older ones exist.

    Raises:
        NotFound: The table does not exist.
    """
    table = open_table(TableRef(uri))
    entries: list[Any] = table.versions()
    held = [entry for entry in entries if before is None or entry["version"] < before]
    held.sort(key=lambda entry: entry["version"], reverse=True)
    return [_described(table, entry) for entry in held[:count]], len(held) > count


def _described(table: lance.LanceDataset, entry: dict[str, Any]) -> TableVersion:
    version, at = int(entry["version"]), entry["timestamp"].astimezone(UTC)
    rows = int(entry["metadata"]["total_rows"])
    try:
        transaction = table.read_transaction(version)
    except (OSError, ValueError, TypeError):  # removed by a clean-up, or of a kind that Lance cannot represent
        transaction = None
    if transaction is None:
        return TableVersion(version, at, rows, _UNKNOWN)
    kind = type(transaction.operation).__name__
    properties = transaction.transaction_properties or {}
    if JOB_PROPERTY not in properties:
        return TableVersion(version, at, rows, _KINDS.get(kind, kind))
    added, _, changed = commit_counts(properties)
    job = properties[JOB_PROPERTY].partition("/")[0]
    return TableVersion(version, at, rows, "bulk load", job, added, changed)


def version_change(older: TableRef, newer: TableRef) -> VersionChange:
    """What the newer of two versions of a patches table changed; names, digests and labels are read, no pixels.

    Raises:
        NotFound: The table or a version does not exist.
    """
    old, new = (open_table(ref).to_table(columns=["patch_id", "digest", "label_mask"]) for ref in (older, newer))
    place = pc.index_in(new["patch_id"], value_set=old["patch_id"].combine_chunks())
    before = old["digest"].combine_chunks().take(place.combine_chunks())
    names = {
        "added": new["patch_id"].filter(pc.is_null(place)),
        "removed": old["patch_id"].filter(
            pc.invert(pc.is_in(old["patch_id"], value_set=new["patch_id"].combine_chunks()))
        ),
        "changed": new["patch_id"].filter(pc.not_equal(new["digest"], before)),
    }
    return VersionChange(
        **{kind: len(found) for kind, found in names.items()},
        examples={kind: tuple(sorted(found[:_SHOWN].to_pylist())) for kind, found in names.items()},
        classes=_class_counts(new) - _class_counts(old),
    )


def _class_counts(rows: pa.Table) -> npt.NDArray[np.int64]:
    masks = pc.fill_null(rows["label_mask"], 0).to_numpy()
    counts: npt.NDArray[np.int64] = multi_hot(masks).astype(np.int64).sum(0)
    return counts
