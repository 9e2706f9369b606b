"""Table of codes with an IVF index: extra columns, and what its metadata say of the index and its measured recall."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Self

import pyarrow as pa

from eoforge.data.tables.schema import METADATA_FIELDS
from eoforge.errors import DataRefused, UsageError

if TYPE_CHECKING:
    import lance

EXACT, IVF = "exact", "ivf"
ENGINES = (EXACT, IVF)
ENGINE_KEY, IVF_KEY = "eoforge.engine", "eoforge.ivf"
VECTOR_INDEX = "code_ivf"
DEVIATIONS = 1.64
"""Standard errors between a measured recall and one that is promised: 95 % on one side."""
MAX_PARTITIONS = 1 << 24
K = 10
"""Hits per query of the measured recall (recall@10)."""


def with_metadata(schema: pa.Schema) -> pa.Schema:
    """Schema of codes that an IVF index is built for: each row also has the metadata of its patch.

    A search then filters and answers from one table, without a local copy of the index.
    """
    extra = [f.remove_metadata().with_nullable(True) for f in METADATA_FIELDS if f.name not in schema.names]
    return pa.schema([*schema, *extra], metadata={**(schema.metadata or {}), ENGINE_KEY: IVF})


def engine_of(schema: pa.Schema) -> str:
    """Engine that a table of codes was made for."""
    return (schema.metadata or {}).get(ENGINE_KEY.encode(), EXACT.encode()).decode()


def indexed_fragments(table: lance.LanceDataset) -> set[int]:
    """Fragments that the vector index was built from."""
    of_codes = [index for index in table.describe_indices() if index.name == VECTOR_INDEX]
    return {int(f) for index in of_codes for segment in index.segments for f in segment.fragment_ids}


@dataclass(frozen=True)
class IvfInfo:
    """Facts of an IVF index, measured when it was built.

    Attributes:
        partitions: Partitions that the codes are divided into.
        trained_rows: Rows of the table when the partitions were trained.
        queries: Queries per direction of the measured recall.
        recall: Recall@10 by number of probed partitions, the lower of both directions (s1 to s2, s2 to s1). A hit
            counts that is not farther than the tenth exact one.
        countries: Countries of the patches, for filters.
        counts: Number of codes by sensor.
    """

    partitions: int
    trained_rows: int
    queries: int = 0
    recall: dict[int, float] = field(default_factory=dict)
    countries: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def metadata(self) -> dict[str, str | None]:
        """Facts as metadata of the schema."""
        return {IVF_KEY: json.dumps(asdict(self))}

    @classmethod
    def of(cls, schema: pa.Schema, uri: str) -> Self | None:
        """Facts from the schema of the table at ``uri``; None before its index is built.

        Raises:
            DataRefused: The facts are malformed.
        """
        text = (schema.metadata or {}).get(IVF_KEY.encode())
        if text is None:
            return None
        try:
            values = json.loads(text)
            values["recall"] = {int(probes): float(recall) for probes, recall in values["recall"].items()}
            found = cls(**values)
            found.require_possible()
            return found
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise DataRefused(f"the facts of the IVF index of {uri} are malformed: {error}") from error

    def require_possible(self) -> None:
        """Check of facts that were read from a store.

        Raises:
            ValueError: A number is out of range.
            TypeError: A fact has another type.
        """
        numbers = (self.partitions, self.trained_rows, self.queries, *self.counts.values())
        if not all(type(number) is int for number in numbers):
            raise TypeError("expected partitions, rows, queries and counts as integers")
        if not 1 <= self.partitions <= MAX_PARTITIONS or min(numbers) < 0 or set(self.counts) - {"s1", "s2"}:
            raise ValueError(f"expected 1 to {MAX_PARTITIONS} partitions, and counts from 0 on of s1 and s2")
        if not all(1 <= probes <= self.partitions and 0 <= recall <= 1 for probes, recall in self.recall.items()):
            raise ValueError("expected recalls of 0 to 1 for 1 partition to all of them")
        if not all(isinstance(name, str) for name in self.countries):
            raise TypeError("expected names of countries")

    def probes_for(self, min_recall: float) -> int:
        """Fewest partitions whose recall is at least ``min_recall``, with the certainty of ``DEVIATIONS``.

        Raises:
            UsageError: No measured number of partitions has that recall.
        """
        sure = {probes: self._at_least(recall) for probes, recall in self.recall.items()}
        reached = [probes for probes, recall in sure.items() if recall >= min_recall]
        if not reached:
            best = max(sure.values(), default=0.0)
            raise UsageError(
                f"no measured setting of this index has recall {min_recall:g}; the best has {best:.4f}. Ask for at "
                "most that, or for 1, an exact search"
            )
        return min(reached)

    def _at_least(self, recall: float) -> float:
        """Lower bound of a measured recall: few queries measured it. Hits of one query count as one observation."""
        return recall - DEVIATIONS * math.sqrt(recall * (1 - recall) / self.queries) if self.queries else recall


def require_recall(value: float) -> float:
    """Check of a wanted recall.

    Raises:
        UsageError: It is not in 0 to 1, 0 excluded.
    """
    if not 0 < value <= 1:
        raise UsageError(f"min_recall must be above 0 and at most 1, which is an exact search; got {value:g}")
    return value
