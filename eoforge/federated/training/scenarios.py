"""Scenarios DS1, DS2, DS3: partitions of an archive's patches into silos, from weakly to strongly non-IID.

============================  =======================================================================================
``ds1``                       patches shuffled over silos of the countries' sizes (*confirmed*, CV4RS report)
``ds2``                       a silo is a country (*confirmed*)
``ds3_country_x_season``      a silo is a country in a season: the report's sentence (*confirmed* as text)
``ds3_country_mixed_seasons`` a silo is a country over all seasons: what the report's files hold (*confirmed* as files)
============================  =======================================================================================

All use the official split. ``months`` restricts the training patches of DS1 and DS2 and all held-out patches (June to
August in the study); DS3 trains on all months.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from eoforge.data.labels import CLASSES, multi_hot
from eoforge.data.loading.batch import SEASONS, require
from eoforge.errors import NotFound, UsageError
from eoforge.nn.seeds import derive_seed
from eoforge.storage.addresses import TableRef, open_table

Rows = npt.NDArray[np.int64]
SCENARIOS: tuple[str, ...] = ("ds1", "ds2", "ds3_country_x_season", "ds3_country_mixed_seasons")
STUDY_COUNTRIES: tuple[str, ...] = (
    "Austria",
    "Belgium",
    "Finland",
    "Ireland",
    "Lithuania",
    "Serbia",
    "Switzerland",
)
"""The seven countries of the study; its text says Finland where its DS2 folder holds Portugal."""
STUDY_MONTHS: tuple[int, ...] = (6, 7, 8)
_SEASON_OF = {month: season for season, months in SEASONS.items() for month in months}


@dataclass(frozen=True)
class PatchMetadata:
    """Metadata of a patches table, one element per row in the table's order."""

    split: npt.NDArray[np.str_]
    country: npt.NDArray[np.str_]
    month: npt.NDArray[np.int64]
    label_mask: npt.NDArray[np.uint32]
    cell: npt.NDArray[np.str_]

    @classmethod
    def read(cls, table: TableRef) -> PatchMetadata:
        """Metadata of ``table``.

        Raises:
            NotFound: The table or its version does not exist.
            DataRefused: A patch has no labels or no optical date.
        """
        import pyarrow.compute as pc

        columns = ["split", "country", "acquired_s2", "label_mask", "patch_id"]
        dataset = open_table(table)
        require(dataset, None, ("s2",), labels=True)
        read = dataset.to_table(columns=columns)
        return cls(
            np.array(read["split"].to_pylist(), dtype=np.str_),
            np.array(pc.fill_null(read["country"], "unknown").to_pylist(), dtype=np.str_),
            pc.month(read["acquired_s2"]).to_numpy().astype(np.int64),
            read["label_mask"].to_numpy().astype(np.uint32),
            np.array(read["patch_id"].to_pylist(), dtype=np.str_),
        )

    def rows_of(self, split: str, countries: Sequence[str] = (), months: Sequence[int] = ()) -> Rows:
        """Rows of ``split`` in those countries and months (all if empty)."""
        return np.flatnonzero((self.split == split) & self._within(countries, months)).astype(np.int64)

    def _within(self, countries: Sequence[str], months: Sequence[int]) -> npt.NDArray[np.bool_]:
        in_all = np.ones(len(self.split), dtype=bool)
        in_countries = np.isin(self.country, countries) if countries else in_all
        return in_countries & (np.isin(self.month, months) if months else in_all)


def assign(
    metadata: PatchMetadata,
    scenario: str,
    *,
    countries: Sequence[str] = (),
    months: Sequence[int] = (),
    min_patches: int = 2,
    seed: int = 0,
) -> dict[str, Rows]:
    """Rows of each silo's training patches, ascending; silos in id order.

    Args:
        metadata: Metadata of the table.
        scenario: One of ``SCENARIOS``.
        countries: Participating countries; all if empty.
        months: Months of the training patches, see the head of this module; all if empty.
        min_patches: Least patches of a silo; smaller silos are left out.
        seed: Seed of DS1's shuffle.

    Raises:
        UsageError: The scenario is unknown.
        NotFound: No silo has that many patches.
    """
    if scenario not in SCENARIOS:
        raise UsageError(f"scenario must be one of {', '.join(SCENARIOS)}; got {scenario!r}")
    rows = metadata.rows_of("train", countries, () if scenario.startswith("ds3") else months)
    country = metadata.country[rows]
    keys = np.array([_slug(c) for c in country], dtype=np.str_)
    if scenario == "ds3_country_x_season":
        keys = np.array([f"{k}-{_SEASON_OF[int(m)]}" for k, m in zip(keys, metadata.month[rows], strict=True)], np.str_)
    if scenario == "ds1":
        # Each row is ordered by a hash of its own name: rows that are added or removed move no other row.
        order = np.argsort([derive_seed("ds1", seed, str(name)) for name in metadata.cell[rows]], kind="stable")
        rows = rows[order]
        keys = np.sort(keys)
    silos = {str(key): np.sort(rows[keys == key]) for key in np.unique(keys)}
    if scenario == "ds1":
        silos = {f"mixed-{key}": chosen for key, chosen in silos.items()}
    large = {key: chosen for key, chosen in silos.items() if len(chosen) >= min_patches}
    if not large:
        raise NotFound(
            f"{scenario} gives no silo of at least {min_patches} training patches in "
            f"{', '.join(countries) or 'any country'}, months {list(months) or 'all'}"
        )
    return large


def skew(metadata: PatchMetadata, silos: Mapping[str, Rows]) -> dict[str, Any]:
    """Inequality of the silos, in size and in labels.

    Returns:
        ``silos``: per silo patches, share, labels per patch, classes present, the three most frequent, seasons, and the
        Jensen-Shannon divergence (bits, 0 to 1) of its label distribution from that of all silos together; and over all
        of them ``size_ratio`` (largest to smallest), ``label_divergence`` (mean, by size).
    """
    counts_SL = np.stack([multi_hot(metadata.label_mask[rows]).sum(axis=0) for rows in silos.values()]).astype(float)
    overall_L = counts_SL.sum(axis=0) / max(counts_SL.sum(), 1)
    sizes = np.array([len(rows) for rows in silos.values()])
    table = []
    for (silo, rows), counts_L in zip(silos.items(), counts_SL, strict=True):
        frequent = [CLASSES[i] for i in np.argsort(-counts_L, kind="stable")[:3] if counts_L[i]]
        table.append(
            {
                "silo": silo,
                "patches": len(rows),
                "share": float(len(rows) / sizes.sum()),
                "labels_per_patch": float(counts_L.sum() / len(rows)),
                "classes": int((counts_L > 0).sum()),
                "most_frequent": frequent,
                "seasons": sorted({_SEASON_OF[int(m)] for m in metadata.month[rows]}),
                "label_divergence": _divergence(counts_L / max(counts_L.sum(), 1), overall_L),
            }
        )
    weighted = float(np.average([row["label_divergence"] for row in table], weights=sizes))
    return {"silos": table, "size_ratio": float(sizes.max() / sizes.min()), "label_divergence": weighted}


def _divergence(first_L: npt.NDArray[Any], second_L: npt.NDArray[Any]) -> float:
    middle_L = (first_L + second_L) / 2

    def relative(p: npt.NDArray[Any]) -> float:
        present = p > 0
        return float((p[present] * np.log2(p[present] / middle_L[present])).sum())

    return (relative(first_L) + relative(second_L)) / 2


def _slug(country: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", country.lower()).strip("-")
