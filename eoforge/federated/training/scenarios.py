"""DS1, DS2, DS3: how an archive's patches fall on silos, from weakest to strongest non-IID; any table, official split.

============================  =======================================================================================
``ds1``                       patches shuffled over silos, silo sizes equal to the countries' (*confirmed*, CV4RS
report) ``ds2``                       a silo is a country (*confirmed*)
``ds3_country_x_season``      a silo is a country in a season: the report's sentence (*confirmed* as text)
``ds3_country_mixed_seasons`` a silo is a country over all seasons: what the report's files hold (*confirmed* as files)
============================  =======================================================================================

``months`` restricts training of DS1 and DS2 and everything held out (the study: June to August); DS3 trains on all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from eoforge.data.labels import CLASSES, multi_hot
from eoforge.data.loading.batch import SEASONS
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
"""The seven of the study; its text says Finland where its DS2 folder holds Portugal."""
STUDY_MONTHS: tuple[int, ...] = (6, 7, 8)
_SEASON_OF = {month: season for season, months in SEASONS.items() for month in months}


@dataclass(frozen=True)
class Places:
    """The metadata that scenarios need, row by row in the table's order."""

    split: npt.NDArray[np.str_]
    country: npt.NDArray[np.str_]
    month: npt.NDArray[np.int64]
    label_mask: npt.NDArray[np.uint32]
    cell: npt.NDArray[np.str_]

    @classmethod
    def read(cls, table: TableRef) -> Places:
        """Reads four columns of a patches table.

        Raises:
            NotFound: There is no such table or version.
        """
        import pyarrow.compute as pc

        columns = ["split", "country", "acquired_s2", "label_mask", "patch_id"]
        read = open_table(table).to_table(columns=columns)
        return cls(
            np.array(read["split"].to_pylist(), dtype=np.str_),
            np.array(read["country"].to_pylist(), dtype=np.str_),
            pc.month(read["acquired_s2"]).to_numpy().astype(np.int64),
            read["label_mask"].to_numpy().astype(np.uint32),
            np.array(read["patch_id"].to_pylist(), dtype=np.str_),
        )

    def held_out(self, split: str, countries: Sequence[str] = (), months: Sequence[int] = ()) -> Rows:
        """Rows of ``split`` in those countries and months (all if empty)."""
        return np.flatnonzero((self.split == split) & self._within(countries, months)).astype(np.int64)

    def _within(self, countries: Sequence[str], months: Sequence[int]) -> npt.NDArray[np.bool_]:
        everywhere = np.ones(len(self.split), dtype=bool)
        here = np.isin(self.country, countries) if countries else everywhere
        return here & (np.isin(self.month, months) if months else everywhere)


def assign(
    places: Places,
    scenario: str,
    *,
    countries: Sequence[str] = (),
    months: Sequence[int] = (),
    min_patches: int = 2,
    seed: int = 0,
) -> dict[str, Rows]:
    """Silo id -> rows of its training patches, ascending; silos in id order.

    Args:
        places: From :meth:`Places.read`.
        scenario: One of ``SCENARIOS``.
        countries: Which take part; all if empty.
        months: See the head of this module.
        min_patches: Smaller silos are left out.
        seed: Of DS1's shuffle.

    Raises:
        UsageError: The scenario is unknown.
        NotFound: No silo has that many patches.
    """
    if scenario not in SCENARIOS:
        raise UsageError(f"scenario must be one of {', '.join(SCENARIOS)}; got {scenario!r}")
    rows = places.held_out("train", countries, () if scenario.startswith("ds3") else months)
    country = places.country[rows]
    keys = np.array([_slug(c) for c in country], dtype=np.str_)
    if scenario == "ds3_country_x_season":
        keys = np.array([f"{k}-{_SEASON_OF[int(m)]}" for k, m in zip(keys, places.month[rows], strict=True)], np.str_)
    if scenario == "ds1":
        # A row's place in the order is a function of its own name: rows that come or go move no other.
        order = np.argsort([derive_seed("ds1", seed, str(name)) for name in places.cell[rows]], kind="stable")
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


def skew(places: Places, silos: Mapping[str, Rows]) -> dict[str, Any]:
    """How unequal the silos are, in size and in labels.

    Returns:
        ``silos``: per silo patches, share, labels per patch, classes present, the three most frequent, seasons, and the
        Jensen-Shannon divergence (bits, 0 to 1) of its label distribution from that of all silos together; and over all
        of them ``size_ratio`` (largest to smallest), ``label_divergence`` (mean, by size).
    """
    counts_SL = np.stack([multi_hot(places.label_mask[rows]).sum(axis=0) for rows in silos.values()]).astype(float)
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
                "seasons": sorted({_SEASON_OF[int(m)] for m in places.month[rows]}),
                "label_divergence": _divergence(counts_L / max(counts_L.sum(), 1), overall_L),
            }
        )
    weighted = float(np.average([row["label_divergence"] for row in table], weights=sizes))
    return {"silos": table, "size_ratio": float(sizes.max() / sizes.min()), "label_divergence": weighted}


def _divergence(first_L: npt.NDArray[Any], second_L: npt.NDArray[Any]) -> float:
    middle_L = (first_L + second_L) / 2

    def relative(p: npt.NDArray[Any]) -> float:
        there = p > 0
        return float((p[there] * np.log2(p[there] / middle_L[there])).sum())

    return (relative(first_L) + relative(second_L)) / 2


def _slug(country: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", country.lower()).strip("-")
