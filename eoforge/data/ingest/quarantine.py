"""Quarantine table: excluded patches with the reasons, beside the table of patches."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from eoforge.data.records import Defect
from eoforge.data.tables.schema import QUARANTINE
from eoforge.storage.addresses import normalise

KEYS = ("patch_id", "reason")


def quarantine_uri(table: str) -> str:
    """Address of the quarantine table of a patches table: ``patches.quarantine.lance`` beside ``patches.lance``.

    The table is a log: one row per (patch_id, reason) from the first ingestion with that finding, warnings included
    (``records.WARNINGS``). Rows remain when a later archive repairs the patch.
    """
    return f"{normalise(table).removesuffix('.lance')}.quarantine.lance"


def defect_batch(defects: Sequence[Defect], ingest_id: str) -> pa.RecordBatch:
    """Rows of :data:`eoforge.data.tables.schema.QUARANTINE` from defects."""
    columns = [
        [d.patch_id for d in defects],
        [d.reason.value for d in defects],
        [d.detail for d in defects],
        [d.file for d in defects],
        [ingest_id] * len(defects),
    ]
    return pa.record_batch([pa.array(values, pa.string()) for values in columns], schema=QUARANTINE)
