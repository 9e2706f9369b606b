"""Quarantine table: excluded patches with the reasons, beside the table of patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from eoforge.data.records import Defect
from eoforge.data.tables.schema import QUARANTINE, sql_list
from eoforge.storage.addresses import normalise, open_table, table_exists

KEYS = ("patch_id", "reason")


@dataclass(frozen=True)
class Finding:
    """One row of the quarantine table."""

    patch_id: str
    reason: str
    detail: str
    file: str
    ingest_id: str


@dataclass(frozen=True)
class Findings:
    """Part of the findings of a quarantine table.

    Attributes:
        rows: The findings.
        total: Number of findings with the wanted reason and ingestion.
        reasons: Findings per reason of the wanted ingestion, the most frequent first.
    """

    rows: list[Finding] = field(default_factory=list)
    total: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


def findings(
    table: str, *, reason: str | None = None, ingest_id: str | None = None, start: int = 0, count: int = 40
) -> Findings:
    """Findings of the quarantine table of a patches table; none if there is no such table.

    Args:
        table: Address of the patches table.
        reason: Only findings with this reason code.
        ingest_id: Only findings of this ingestion.
        start: Number of findings that are passed over.
        count: Largest number of findings.
    """
    uri = quarantine_uri(table)
    if not table_exists(uri):
        return Findings()
    opened = open_table(uri)
    wanted = {"ingest_id": ingest_id, "reason": reason}
    terms = {column: f"{column} = {sql_list([value])}" for column, value in wanted.items() if value is not None}
    counted = pc.value_counts(opened.to_table(columns=["reason"], filter=terms.get("ingest_id"))["reason"]).to_pylist()
    counted.sort(key=lambda entry: (-entry["counts"], entry["values"]))
    reasons = {str(entry["values"]): int(entry["counts"]) for entry in counted}
    rows = opened.to_table(filter=" AND ".join(terms.values()) or None, offset=start, limit=count).to_pylist()
    total = sum(reasons.values()) if reason is None else reasons.get(reason, 0)
    return Findings([Finding(**row) for row in rows], total, reasons)


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
