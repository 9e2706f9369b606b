"""Derived versions of a patches table: labels that training reads instead of the clean ones, beside them.

A derived version has the nullable column ``train_label_mask``, and ``train_reference_map`` where pixel maps changed
too. Clean labels stay as they are, and only patches of the training split get a value. The provenance (injector, rate,
seed, or the review) is field metadata of the column. Earlier versions of the table remain readable.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from eoforge.data.labels import CLC_TO_CLASS, IGNORE_INDEX, NUM_CLASSES, clc_to_classes
from eoforge.data.noise.maps import relabelled
from eoforge.data.noise.scene import Bools, Floats, Noise, Realised, inject, realised
from eoforge.data.split import SPLITS
from eoforge.data.tables.schema import (
    TRAIN_LABEL_MASK,
    TRAIN_REFERENCE_MAP,
    TRAINING_LABEL_FIELDS,
    tensor_column,
)
from eoforge.errors import ConflictError, DataRefused
from eoforge.storage.addresses import TableRef, open_table, table_to_write

if TYPE_CHECKING:
    import lance

PROVENANCE = "eoforge.training_labels"
_ROWS = 64
_CODE_OF = np.zeros(IGNORE_INDEX + 1, dtype=np.uint16)
for _code, _index in sorted(CLC_TO_CLASS.items(), reverse=True):
    _CODE_OF[_index] = _code  # the smallest CLC code of a class stands for it

MapRule = Callable[[str, npt.NDArray[np.uint8]], npt.NDArray[np.uint8] | None]


@dataclass(frozen=True)
class Derived:
    """A derived version.

    Attributes:
        table: The table at that version.
        patches: Number of patches with a training label of their own.
        rates: How the training labels differ from the clean ones, over the training split.
    """

    table: TableRef
    patches: int
    rates: Realised


def add_noise(table: str, noise: Noise, *, maps: bool = False, scores: Mapping[str, Floats] | None = None) -> Derived:
    """A derived version whose training labels carry injected noise.

    Args:
        table: A patches table; its newest version is derived from, and its clean labels are the truth.
        noise: Kind, rate and seed. The result does not depend on the order of the rows.
        maps: Whether pixel maps change consistently with the scene labels.
        scores: For ``instance`` noise: probabilities ``[19]`` by patch id.

    Raises:
        NotFound: There is no such table.
        DataRefused: The table has no patch of the training split.
        UsageError: ``scores`` are needed or lack a patch.
        ConflictError: Another writer changed the table meanwhile.
    """
    names, clean = training_labels(open_table(table))
    matrix = None
    if scores is not None:
        if missing := [name for name in names if name not in scores]:
            raise DataRefused(f"scores lack {len(missing)} of {len(names)} training patches, such as {missing[0]}")
        matrix = np.stack([scores[name] for name in names])
    noisy = inject(clean, noise, scores_NL=matrix)
    row_of = {name: row for row, name in enumerate(names)}

    def noisy_map(name: str, map_HW: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8] | None:
        row = row_of.get(name)
        if row is None or (clean[row] == noisy[row]).all():
            return None
        return relabelled(map_HW, clean[row], noisy[row])

    provenance = {"noise": asdict(noise), "maps": maps, "realised": asdict(realised(clean, noisy))}
    return derive(table, dict(zip(names, noisy, strict=True)), provenance, noisy_map if maps else None)


def derive(
    table: str, labels: Mapping[str, Bools], provenance: Mapping[str, Any], map_rule: MapRule | None = None
) -> Derived:
    """A derived version with the given training labels; those of an earlier derivation are replaced.

    Args:
        table: A patches table.
        labels: Patch id to bool ``[19]``; patches that are absent keep their clean labels.
        provenance: What the labels are, for the metadata of the column.
        map_rule: Patch id and class map ``[120, 120]`` to the training map, or None to keep the clean one.

    Raises:
        NotFound: There is no such table.
        DataRefused: A name is no patch of the training split.
        ConflictError: Another writer changed the table meanwhile.
    """
    uri = table_to_write(table)
    dataset = open_table(TableRef(uri))
    names, clean = training_labels(dataset)
    if unknown := sorted(set(labels) - set(names)):
        raise DataRefused(
            f"{len(unknown)} of {len(labels)} labelled patches are not in the training split of {uri}: {unknown[0]} ..."
        )
    masks = {name: _mask(row) for name, row in labels.items()}
    with _one_writer(uri):
        if old := [name for name in TRAINING_LABEL_FIELDS if name in dataset.schema.names]:
            dataset.drop_columns(old)
            dataset = open_table(TableRef(uri))
        _add_columns(dataset, masks, provenance, map_rule)
    noisy = np.stack([labels.get(name, row) for name, row in zip(names, clean, strict=True)])
    version = int(open_table(TableRef(uri)).version)
    return Derived(TableRef(uri, version), len(masks), realised(clean, noisy))


def training_labels(dataset: lance.LanceDataset) -> tuple[list[str], Bools]:
    """Ids and clean labels ``[N, 19]`` of the labelled patches of the training split, in the order of the ids.

    Raises:
        DataRefused: The split is empty.
    """
    rows = _training_rows(dataset, ["label_mask"])
    if not rows.num_rows:
        raise DataRefused("the table has no patch of the training split: there are no training labels to derive")
    return rows["patch_id"].to_pylist(), _bools(rows["label_mask"])


def seen_labels(dataset: lance.LanceDataset) -> dict[str, Bools]:
    """Labels ``[19]`` that training reads, by patch id of the training split: derived ones where there are any."""
    derived = [name for name in (TRAIN_LABEL_MASK,) if name in dataset.schema.names]
    rows = _training_rows(dataset, ["label_mask", *derived])
    masks = pc.coalesce(*(rows[name] for name in (*derived, "label_mask")))
    return dict(zip(rows["patch_id"].to_pylist(), _bools(masks), strict=True))


def _training_rows(dataset: lance.LanceDataset, columns: list[str]) -> pa.Table:
    labelled = f"split = '{SPLITS[0]}' AND label_mask IS NOT NULL"
    rows = dataset.to_table(columns=["patch_id", *columns], filter=labelled)
    return rows.sort_by("patch_id")


def _bools(masks: pa.ChunkedArray) -> Bools:
    bits = masks.to_numpy()[:, None] >> np.arange(NUM_CLASSES, dtype=np.uint32) & 1
    return bits.astype(bool)


def provenance_of(dataset: lance.LanceDataset) -> dict[str, Any] | None:
    """What the training labels of a version are; None for a version without them."""
    if TRAIN_LABEL_MASK not in dataset.schema.names:
        return None
    metadata = dataset.schema.field(TRAIN_LABEL_MASK).metadata or {}
    known: dict[str, Any] = json.loads(metadata.get(PROVENANCE.encode(), b"{}"))
    return known


def _mask(labels_L: Bools) -> int:
    return sum(1 << int(label) for label in np.flatnonzero(labels_L))


def _add_columns(
    dataset: lance.LanceDataset,
    masks: Mapping[str, int],
    provenance: Mapping[str, Any],
    map_rule: MapRule | None,
) -> None:
    import lance

    chosen = [TRAIN_LABEL_MASK, *([TRAIN_REFERENCE_MAP] if map_rule is not None else [])]
    metadata = {PROVENANCE: json.dumps(provenance, sort_keys=True)}
    schema = pa.schema([pa.field(name, TRAINING_LABEL_FIELDS[name], metadata=metadata) for name in chosen])

    @lance.batch_udf(output_schema=schema)
    def training_columns(batch: pa.RecordBatch) -> pa.RecordBatch:
        names = batch["patch_id"].to_pylist()
        columns = [pa.array([masks.get(name) for name in names], pa.uint32())]
        if map_rule is not None:
            columns.append(_maps(names, batch["reference_map"], map_rule))
        return pa.record_batch(columns, schema=schema)

    read = ["patch_id", *(["reference_map"] if map_rule is not None else [])]
    dataset.add_columns(training_columns, read_columns=read, batch_size=_ROWS)


def _maps(names: list[str], column: pa.Array, rule: MapRule) -> pa.Array:
    codes, valid = tensor_column(column)
    values: list[npt.NDArray[np.uint16] | None] = []
    for name, code_HW, known in zip(names, codes, valid, strict=True):
        before = clc_to_classes(code_HW)
        after = rule(name, before) if known else None
        # Pixels of unchanged class keep their CLC code, which is finer than the class.
        values.append(None if after is None else np.where(after == before, code_HW, _CODE_OF[after]).ravel())
    kind = TRAINING_LABEL_FIELDS[TRAIN_REFERENCE_MAP]
    storage = pa.array(values, pa.list_(pa.uint16(), int(np.prod(kind.shape))))
    return pa.ExtensionArray.from_storage(kind, storage)


@contextmanager
def _one_writer(uri: str) -> Iterator[None]:
    """Lance's refusal of a concurrent change as :class:`ConflictError`."""
    try:
        yield
    except OSError as error:
        if "conflict" not in str(error).lower():
            raise
        raise ConflictError(f"another writer changed {uri} meanwhile; run the command again") from error
