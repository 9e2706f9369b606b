"""Batches of patches in memory: their type, the selection of rows, and the reading of rows from Lance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.utils.dlpack import from_dlpack

from eoforge.data.bands import GROUPS, MODALITIES
from eoforge.data.labels import INDEX, clc_to_classes
from eoforge.data.split import SPLITS
from eoforge.data.tables.schema import ACQUIRED, TRAIN_LABEL_MASK, TRAIN_REFERENCE_MAP, sql_list, tensor_column
from eoforge.errors import DataRefused, UsageError, did_you_mean

if TYPE_CHECKING:
    import lance

SEASONS: dict[str, tuple[int, int, int]] = {
    "spring": (3, 4, 5),
    "summer": (6, 7, 8),
    "autumn": (9, 10, 11),
    "winter": (12, 1, 2),
}
"""Meteorological seasons as months of the optical acquisition."""


@dataclass
class PatchBatch:
    """Batch of ``B`` patches; fields that were not requested are None.

    Attributes:
        patch_id: Names, in table order.
        s2_10m: uint16 ``[B, 4, 120, 120]``: B02 B03 B04 B08, reflectance x 10,000.
        s2_20m: uint16 ``[B, 6, 60, 60]``: B05 B06 B07 B8A B11 B12.
        s2_60m: uint16 ``[B, 2, 20, 20]``: B01 B09.
        s1: float32 ``[B, 2, 120, 120]``: VV VH in dB.
        label_mask: int64 ``[B]``, bit ``i`` for class ``i`` of ``labels.CLASSES``, 0 for an unlabelled patch; the
            training label of a derived version where there is one.
        reference_map: uint8 ``[B, 120, 120]`` class indices; 255 for pixels or patches without a class. As above.
    """

    patch_id: list[str]
    s2_10m: torch.Tensor | None
    s2_20m: torch.Tensor | None
    s2_60m: torch.Tensor | None
    s1: torch.Tensor | None
    label_mask: torch.Tensor
    reference_map: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.patch_id)

    def _with(self, move: Callable[[torch.Tensor], torch.Tensor]) -> PatchBatch:
        moved: dict[str, Any] = {}
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            moved[name] = move(value) if isinstance(value, torch.Tensor) else value
        return PatchBatch(**moved)

    def to(self, device: torch.device | str) -> PatchBatch:
        """Copy of the batch on ``device``; copies from pinned memory do not block."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> PatchBatch:
        """Copy of the batch in page-locked memory, from which a GPU copies asynchronously."""
        return self._with(lambda tensor: tensor.pin_memory())


@dataclass(frozen=True)
class PatchFilter:
    """Conditions on the patches of a loader; an empty field does not restrict.

    Attributes:
        splits: Any of ``train``, ``validation``, ``test``.
        countries: Country names.
        seasons: Any of ``spring``, ``summer``, ``autumn``, ``winter`` (of the optical acquisition).
        labels_any: At least one of these labels.
        labels_all: All of these labels.
        exclude_snow: No seasonal snow.
        exclude_cloud: No clouds or their shadows.
    """

    splits: tuple[str, ...] = ()
    countries: tuple[str, ...] = ()
    seasons: tuple[str, ...] = ()
    labels_any: tuple[str, ...] = ()
    labels_all: tuple[str, ...] = ()
    exclude_snow: bool = False
    exclude_cloud: bool = False

    def __post_init__(self) -> None:
        for what, given, known in (
            ("splits", self.splits, SPLITS),
            ("seasons", self.seasons, SEASONS),
            ("labels_any", self.labels_any, INDEX),
            ("labels_all", self.labels_all, INDEX),
        ):
            if unknown := [name for name in given if name not in known]:
                raise UsageError(
                    f"{what} must be a tuple of names out of {'; '.join(known)}; got {given!r}, of which "
                    f"{unknown[0][:80]!r} is unknown{did_you_mean(unknown[0], known)}"
                )

    def sql(self) -> str | None:
        """Condition in the SQL of Lance; None if every patch passes."""
        terms = []
        if self.splits:
            terms.append(f"split IN ({sql_list(self.splits)})")
        if self.countries:
            terms.append(f"country IN ({sql_list(self.countries)})")
        if self.seasons:
            months = ", ".join(str(month) for season in self.seasons for month in SEASONS[season])
            terms.append(f"date_part('month', acquired_s2) IN ({months})")
        if self.labels_any:
            terms.append(f"array_has_any(labels, [{sql_list(self.labels_any)}])")
        if self.labels_all:
            terms.append(f"array_has_all(labels, [{sql_list(self.labels_all)}])")
        if self.exclude_snow:
            terms.append("NOT contains_seasonal_snow")
        if self.exclude_cloud:
            terms.append("NOT contains_cloud_or_shadow")
        return " AND ".join(terms) or None


def select_rows(dataset: lance.LanceDataset, patches: PatchFilter) -> npt.NDArray[np.int64]:
    """Ascending positions ``[N]`` of the rows that pass the filter."""
    condition = patches.sql()
    if condition is None:
        return np.arange(dataset.count_rows(), dtype=np.int64)
    chosen = dataset.to_table(columns=[], filter=condition, with_row_id=True)["_rowid"].to_numpy()
    # take() expects positions in scan order, which is the order of row ids unless a table was compacted.
    all_ids = dataset.to_table(columns=[], with_row_id=True)["_rowid"].to_numpy()
    return np.flatnonzero(np.isin(all_ids, chosen)).astype(np.int64)


def require(
    dataset: lance.LanceDataset, condition: str | None, modalities: Sequence[str], *, labels: bool = False
) -> None:
    """Refuses a table of which some chosen patches lack a sensor or labels.

    Args:
        dataset: A patches table.
        condition: Which patches, in the SQL of Lance; None for all.
        modalities: Sensors that all of them must have.
        labels: Whether all must have labels.

    Raises:
        DataRefused: Some do not.
    """
    needed = {ACQUIRED[m]: f"Sentinel-{m[1]} ({m})" for m in modalities} | ({"label_mask": "labels"} if labels else {})
    for column, what in needed.items():
        if column not in dataset.schema.names or not dataset.schema.field(column).nullable:
            continue  # written by an older version: all are complete
        count = dataset.count_rows(f"{f'({condition}) AND ' if condition else ''}{column} IS NULL")
        if count:
            raise DataRefused(
                f"{count} of {dataset.count_rows(condition)} chosen patches have no {what}, which is needed here; "
                "choose a table of patches that have it"
            )


def read_rows(
    dataset: lance.LanceDataset, rows: npt.NDArray[np.int64], modalities: tuple[str, ...], *, reference_map: bool
) -> PatchBatch:
    """Batch of rows by position; only the requested columns are read.

    Args:
        dataset: A patches table.
        rows: Positions ``[B]``, ascending (Lance reads sorted positions about four times as fast).
        modalities: ``s1``, ``s2`` or both.
        reference_map: Whether to read the reference maps.

    Raises:
        DataRefused: A patch lacks one of the modalities.
    """
    bands = {band for modality in modalities for band in MODALITIES[modality]}
    columns = [group.column for group in GROUPS if bands.issuperset(group.bands)]
    maps = ["reference_map"] if reference_map else []
    derived = [TRAIN_LABEL_MASK, *([TRAIN_REFERENCE_MAP] if maps else [])]
    derived = [name for name in derived if name in dataset.schema.names]
    table = dataset.take(rows, columns=["patch_id", "label_mask", *columns, *maps, *derived])
    for name in columns:
        if table[name].null_count:
            first = table["patch_id"][table[name].is_null().index(True).as_py()]
            raise DataRefused(f"patch {first} has no {name}; {' and '.join(modalities)} are needed here")
    rasters = {name: _raster(table[name]) for name in columns}
    return PatchBatch(
        patch_id=table["patch_id"].to_pylist(),
        label_mask=torch.from_numpy(_label_masks(table)),
        reference_map=torch.from_numpy(clc_to_classes(_reference_maps(table))) if maps else None,
        **{group.column: rasters.get(group.column) for group in GROUPS},
    )


def _label_masks(table: pa.Table) -> npt.NDArray[np.int64]:
    masks = table["label_mask"]
    if TRAIN_LABEL_MASK in table.column_names:
        masks = pc.coalesce(table[TRAIN_LABEL_MASK], masks)
    return pc.fill_null(masks, 0).to_numpy().astype(np.int64)


def _reference_maps(table: pa.Table) -> npt.NDArray[np.uint16]:
    maps = tensor_column(table["reference_map"])[0]
    if TRAIN_REFERENCE_MAP in table.column_names:
        derived, valid = tensor_column(table[TRAIN_REFERENCE_MAP])
        maps[valid] = derived[valid]
    return maps


def _raster(column: pa.ChunkedArray) -> torch.Tensor:
    """Pixels ``[B, ...]`` of a raster column.

    The tensor shares the memory into which Lance decoded the request, and keeps it alive: a copy would take half the
    time of the reading.
    """
    if column.num_chunks != 1:
        return torch.from_numpy(tensor_column(column)[0])
    return from_dlpack(column.chunk(0).storage.flatten()).view(len(column), *column.type.shape)
