"""Targets of regression: a number per patch, from the reference map, a numeric column of the table, or a CSV file.

Only the rows that a caller names are read: a label that is not chosen for training never reaches this process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from eoforge.data.labels import CLASSES, IGNORE_INDEX, INDEX, clc_to_classes
from eoforge.data.tables.schema import sql_list, tensor_column
from eoforge.data.target_file import FileCounts, read_target_file
from eoforge.errors import DataRefused, UsageError, did_you_mean
from eoforge.storage.addresses import TableRef, open_table

if TYPE_CHECKING:
    import lance

SHARES: dict[str, tuple[str, ...]] = {
    "urban_share": ("Urban fabric", "Industrial or commercial units"),
    "cropland_share": ("Arable land", "Permanent crops", "Complex cultivation patterns"),
    "pasture_share": ("Pastures",),
    "forest_share": ("Broad-leaved forest", "Coniferous forest", "Mixed forest"),
    "grassland_share": ("Natural grassland and sparsely vegetated areas",),
    "wetland_share": ("Inland wetlands", "Coastal wetlands"),
    "water_share": ("Inland waters", "Marine waters"),
}
"""Built-in targets: the share of these classes among the pixels of the reference map that have a class."""
CLASS_SHARE = "share:"
"""Prefix of the target of a single class, such as ``share:Mixed forest``."""
Policy = Literal["refuse", "clip"]
_READ, _SHOWN = 256, 5

log = structlog.get_logger("targets")


@dataclass(frozen=True)
class Target:
    """Description of a target.

    Attributes:
        name: A name of ``SHARES``, ``share:CLASS``, a numeric column of the table, or the column of a file.
        unit: Unit for people; empty if it has none.
        low: Least valid value; None without a bound.
        high: Greatest valid value.
        policy: What happens to values out of range: they are refused, or clipped and counted.
    """

    name: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    policy: Policy = "refuse"

    def __post_init__(self) -> None:
        """Checks of the range.

        Raises:
            UsageError: The bounds are not finite or not in order.
        """
        bounds = [bound for bound in (self.low, self.high) if bound is not None]
        if not all(map(math.isfinite, bounds)) or (len(bounds) == 2 and bounds[0] >= bounds[1]):
            raise UsageError(f"the valid range of {self.name} must be low < high; got {self.low} and {self.high}")

    def outside(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Which values ``[N]`` are out of the valid range."""
        clipped: npt.NDArray[np.bool_] = self.clipped(values) != values
        return clipped

    def clipped(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Values within the valid range."""
        bounded: npt.NDArray[np.float64] = np.clip(values, self.low, self.high)
        return bounded


@dataclass(frozen=True)
class TargetValues:
    """Values of patches.

    Attributes:
        values: Patch id -> value, without patches that have none.
        missing: Number of the asked patches that have none.
        clipped: Number of values that were out of range and were clipped.
        file: Counts of the file; None if the target is no file's.
    """

    values: dict[str, float]
    missing: int
    clipped: int
    file: FileCounts | None = None


def with_defaults(target: Target) -> Target:
    """``target`` with the range of a share, 0 to 1, where it is a share and names none."""
    if not is_share(target.name):
        return target
    low, high = 0.0 if target.low is None else target.low, 1.0 if target.high is None else target.high
    return Target(target.name, target.unit or "share of the area", low, high, target.policy)


def is_share(name: str) -> bool:
    """Whether a target is made from the reference map."""
    return name in SHARES or name.startswith(CLASS_SHARE)


def patches_of(table: TableRef, split: str) -> list[str]:
    """Ids of the patches of a split, in the order of the table."""
    rows = open_table(table).to_table(columns=["patch_id"], filter=f"split = '{split}'")
    names: list[str] = rows.column("patch_id").to_pylist()
    return names


def read_target(table: TableRef, target: Target, patches: Sequence[str]) -> TargetValues:
    """Values of a target for the named patches, from the table alone; no other row is read.

    Raises:
        UsageError: There is no such target.
        DataRefused: A value is out of range and the policy refuses it.
    """
    dataset = open_table(table)
    column = _column_of(dataset, target.name)
    found: dict[str, float] = {}
    for start in range(0, len(patches), _READ):
        condition = f"patch_id IN ({sql_list(patches[start : start + _READ])})"
        rows = dataset.to_table(columns=["patch_id", column], filter=condition)
        values = _shares(rows.column(column), target.name) if is_share(target.name) else _numbers(rows.column(column))
        found |= {
            name: float(value)
            for name, value in zip(rows.column("patch_id").to_pylist(), values, strict=True)
            if math.isfinite(value)
        }
    checked, clipped = _in_range(target, {name: found[name] for name in patches if name in found}, str(table))
    missing = len(patches) - len(checked)
    if missing:
        log.warning(f"{missing} of {len(patches)} patches have no value of {target.name} and are left out")
    return TargetValues(checked, missing, clipped)


def read_file(
    table: TableRef, target: Target, file: str, split: str, *, digest: str = "", skip_unknown: bool = False
) -> TargetValues:
    """Values of a target from a CSV file with the columns ``patch_id`` and the name of the target, for one split.

    Args:
        table: Patches table.
        target: The target.
        file: Path or ``s3://`` URI.
        split: Split whose patches are taken.
        digest: SHA-256 that the file must have; empty for any.
        skip_unknown: Whether ids that are not in the table are counted and left out; otherwise they are refused.

    Raises:
        NotFound: There is no such file.
        DataRefused: The file is malformed, names patches that are not in the table, or has a value out of range.
    """
    rows, counts = read_target_file(file, target.name, digest)
    known = _splits(table, list(rows))
    if unknown := [name for name in rows if name not in known]:
        shown = ", ".join(name[:80] for name in unknown[:_SHOWN])
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        text = f"{len(unknown)} of {len(rows)} patches of {file} are not in {table}: {shown}{more}"
        if not skip_unknown:
            raise DataRefused(f"{text}. Correct the ids, or leave them out with unknown_ids=skip")
        log.warning(f"{text}; they are left out")
    chosen = {name: value for name, value in rows.items() if known.get(name) == split}
    checked, clipped = _in_range(target, chosen, file)
    counts = FileCounts(**{**vars(counts), "unknown": len(unknown), "other_splits": len(known) - len(chosen)})
    log.info("values read", file=file, split=split, used=len(checked), **vars(counts))
    return TargetValues(checked, counts.missing, clipped, counts)


def _splits(table: TableRef, names: Sequence[str]) -> dict[str, str]:
    dataset = open_table(table)
    found: dict[str, str] = {}
    for start in range(0, len(names), _READ):
        condition = f"patch_id IN ({sql_list(names[start : start + _READ])})"
        rows = dataset.to_table(columns=["patch_id", "split"], filter=condition).to_pylist()
        found |= {row["patch_id"]: row["split"] for row in rows}
    return found


def _column_of(dataset: lance.LanceDataset, name: str) -> str:
    if is_share(name):
        label = name.removeprefix(CLASS_SHARE)
        if name not in SHARES and label not in INDEX:
            raise UsageError(f"there is no class {label[:80]!r}{did_you_mean(label, CLASSES)}")
        return "reference_map"
    numeric = [
        field.name for field in dataset.schema if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
    ]
    if name not in numeric:
        raise UsageError(
            f"target must be a share ({', '.join(SHARES)}), {CLASS_SHARE}CLASS, or a numeric column of the table "
            f"({', '.join(numeric)}); got {name[:80]!r}. Values of a file need labels_file=FILE"
        )
    return name


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False)
    return values


def _shares(column: pa.ChunkedArray, name: str) -> npt.NDArray[np.float64]:
    """Shares ``[N]``; NaN where no pixel has a class."""
    maps, valid = tensor_column(column)
    classes = clc_to_classes(maps)
    wanted = [INDEX[label] for label in SHARES.get(name, (name.removeprefix(CLASS_SHARE),))]
    known = (classes != IGNORE_INDEX).sum(axis=(1, 2))
    counted = np.isin(classes, wanted).sum(axis=(1, 2))
    shares: npt.NDArray[np.float64] = np.where(valid & (known > 0), counted / np.maximum(known, 1), np.nan)
    return shares


def _in_range(target: Target, values: Mapping[str, float], where: str) -> tuple[dict[str, float], int]:
    array = np.array(list(values.values()), dtype=np.float64)
    outside = target.outside(array)
    if not outside.any():
        return dict(values), 0
    names = [name for name, wrong in zip(values, outside, strict=True) if wrong]
    shown = ", ".join(f"{name[:80]} ({values[name]:g})" for name in names[:_SHOWN])
    text = f"{len(names)} values of {target.name} in {where} are outside {target.low} to {target.high}: {shown}"
    if target.policy == "refuse":
        raise DataRefused(f"{text}. Correct them or the range, or clip them with out_of_range=clip")
    log.warning(f"{text}; they are clipped")
    return dict(zip(values, target.clipped(array).tolist(), strict=True)), len(names)
