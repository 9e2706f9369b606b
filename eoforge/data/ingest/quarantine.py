"""The table of patches that were kept out, and why, beside the table of those that were taken."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from eoforge.data.records import Defect
from eoforge.data.tables.schema import QUARANTINE
from eoforge.storage.addresses import normalise

KEYS = ("patch_id", "reason")


def quarantine_uri(table: str) -> str:
    """``patches.quarantine.lance`` beside ``patches.lance``: every table has its own.

    It holds one row per (patch_id, reason), from the ingestion that met it first; remarks that do not keep a patch out
    (``records.WARNINGS``) are there too. Rows stay when a later archive repairs the patch: it is a log.
    """
    return f"{normalise(table).removesuffix('.lance')}.quarantine.lance"


def defect_batch(defects: Sequence[Defect], ingest_id: str) -> pa.RecordBatch:
    """Defects as rows of :data:`eoforge.data.tables.schema.QUARANTINE`."""
    columns = [
        [d.patch_id for d in defects],
        [d.reason.value for d in defects],
        [d.detail for d in defects],
        [d.file for d in defects],
        [ingest_id] * len(defects),
    ]
    return pa.record_batch([pa.array(values, pa.string()) for values in columns], schema=QUARANTINE)
