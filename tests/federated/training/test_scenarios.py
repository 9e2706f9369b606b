"""DS1, DS2 and DS3 on a table's metadata: who gets which patches, and how unequal that is."""

from __future__ import annotations

import numpy as np
import pytest

from eoforge.data.labels import mask_of
from eoforge.data.loading.batch import SEASONS
from eoforge.errors import NotFound, UsageError
from eoforge.federated.training.scenarios import SCENARIOS, STUDY_COUNTRIES, STUDY_MONTHS, PatchMetadata, assign, skew

SUMMER = (6, 7, 8)


@pytest.fixture
def metadata() -> PatchMetadata:
    """300 rows: three countries of 3 : 2 : 1, all months, two thirds for training."""
    country = np.array((["Austria"] * 150 + ["Serbia"] * 100 + ["North Macedonia"] * 50), dtype=np.str_)
    number = np.arange(300)
    split = np.array(["train", "train", "test"], dtype=np.str_)[number % 3]
    masks = np.array([mask_of(["Urban fabric"]), mask_of(["Pastures", "Mixed forest"])], dtype=np.uint32)
    label_mask = masks[(country == "Serbia").astype(int)]
    return PatchMetadata(
        split, country, number // 3 % 12 + 1, label_mask, np.array([f"cell-{i}" for i in number], dtype=np.str_)
    )


def test_read_takes_the_table_in_its_order(table) -> None:
    read = PatchMetadata.read(table)
    assert len(read.split) == 64
    assert set(read.split) <= {"train", "validation", "test"}
    assert read.month.min() >= 1


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_training_patch_is_at_one_silo_and_nothing_held_out_is(metadata: PatchMetadata, scenario: str) -> None:
    silos = assign(metadata, scenario)
    rows = np.concatenate(list(silos.values()))
    assert np.array_equal(np.sort(rows), np.flatnonzero(metadata.split == "train"))
    assert list(silos) == sorted(silos)
    for chosen in silos.values():
        assert np.array_equal(chosen, np.sort(chosen))


def test_ds1_keeps_the_countries_sizes_and_nothing_else(metadata: PatchMetadata) -> None:
    mixed, by_country = assign(metadata, "ds1"), assign(metadata, "ds2")
    assert [len(r) for r in mixed.values()] == [len(r) for r in by_country.values()]
    assert list(by_country) == ["austria", "north-macedonia", "serbia"]
    for rows in mixed.values():
        assert len(set(metadata.country[rows])) == 3
    assert all(len(set(metadata.country[rows])) == 1 for rows in by_country.values())
    assert skew(metadata, mixed)["label_divergence"] < 0.1 * skew(metadata, by_country)["label_divergence"]


def test_ds1_is_a_function_of_seed_and_of_a_patch_itself(metadata: PatchMetadata) -> None:
    first, same, other = (assign(metadata, "ds1", seed=s) for s in (1, 1, 2))
    assert all(np.array_equal(first[k], same[k]) for k in first)
    assert any(not np.array_equal(first[k], other[k]) for k in first)


def test_both_readings_of_ds3(metadata: PatchMetadata) -> None:
    seasonal = assign(metadata, "ds3_country_x_season", months=SUMMER)
    assert len(seasonal) == 3 * 4
    for name, rows in seasonal.items():
        season = name.rpartition("-")[2]
        assert set(metadata.month[rows]) <= set(SEASONS[season])
        assert len(set(metadata.country[rows])) == 1
    mixed = assign(metadata, "ds3_country_mixed_seasons", months=SUMMER)
    assert len(mixed) == 3
    assert all(len(set(metadata.month[rows])) > 3 for rows in mixed.values())
    # Months restrict DS1 and DS2, and what is held out; DS3 trains on all seasons.
    for scenario in ("ds1", "ds2"):
        chosen = np.concatenate(list(assign(metadata, scenario, months=SUMMER).values()))
        assert set(metadata.month[chosen]) == set(SUMMER)
    assert set(metadata.month[metadata.rows_of("test", months=SUMMER)]) == set(SUMMER)


def test_countries_and_small_silos_are_left_out(metadata: PatchMetadata) -> None:
    silos = assign(metadata, "ds2", countries=("Austria", "Serbia"))
    assert list(silos) == ["austria", "serbia"]
    assert list(assign(metadata, "ds2", min_patches=60)) == ["austria", "serbia"]
    with pytest.raises(NotFound, match="no silo of at least 9999"):
        assign(metadata, "ds2", min_patches=9999)
    with pytest.raises(UsageError, match="scenario must be one of ds1"):
        assign(metadata, "ds4")


def test_skew_in_closed_form(metadata: PatchMetadata) -> None:
    silos = assign(metadata, "ds2")
    report = skew(metadata, silos)
    austria, macedonia, serbia = report["silos"]
    assert report["size_ratio"] == pytest.approx(len(silos["austria"]) / len(silos["north-macedonia"]))
    assert austria["labels_per_patch"] == 1
    assert serbia["labels_per_patch"] == 2
    assert austria["most_frequent"] == ["Urban fabric"]
    # One label against a mixture in which it has the share q: JS divergence of two short vectors.
    total = {n: len(silos[n]) for n in silos}
    q = (total["austria"] + total["north-macedonia"]) / (sum(total.values()) + total["serbia"])
    p, o, m = np.array([1.0, 0, 0]), np.array([q, (1 - q) / 2, (1 - q) / 2]), None
    m = (p + o) / 2
    expected = (p[0] * np.log2(p[0] / m[0]) + (o * np.log2(o / m)).sum()) / 2
    assert austria["label_divergence"] == pytest.approx(expected)
    assert macedonia["label_divergence"] == pytest.approx(expected)


def test_equal_silos_have_no_skew(metadata: PatchMetadata) -> None:
    rows = np.flatnonzero(metadata.country == "Serbia")
    report = skew(metadata, {"a": rows, "b": rows})
    assert report["size_ratio"] == 1
    assert report["label_divergence"] == pytest.approx(0, abs=1e-12)


def test_the_study_on_the_official_metadata(shared_data) -> None:
    """Seven countries, DS2 larger in skew than DS1 and DS3 than DS2, on real rows."""
    import pyarrow.compute as pc

    from eoforge.data.archives.metadata import read_metadata

    def load(name: str) -> bytes | None:
        path = next(iter(sorted(shared_data.rglob(name))), None)
        return path.read_bytes() if path else None

    rows = read_metadata(load, str(shared_data)).table
    rows = rows.take(np.arange(0, len(rows), 8))  # an eighth says as much in an eighth of the time
    month = pc.utf8_slice_codeunits(pc.list_element(pc.split_pattern(rows["patch_id"], "_"), 2), 4, 6)
    real = PatchMetadata(
        np.array(rows["split"].to_pylist(), dtype=np.str_),
        np.array(rows["country"].to_pylist(), dtype=np.str_),
        month.to_numpy(zero_copy_only=False).astype(np.int64),
        np.array([mask_of(labels) for labels in rows["labels"].to_pylist()], dtype=np.uint32),
        np.array(rows["patch_id"].to_pylist(), dtype=np.str_),
    )
    divergence = {}
    for scenario in SCENARIOS:
        silos = assign(real, scenario, countries=STUDY_COUNTRIES, months=STUDY_MONTHS)
        assert len(silos) == 7 if "season" not in scenario or "mixed" in scenario else len(silos) > 7
        divergence[scenario] = skew(real, silos)["label_divergence"]
    assert divergence["ds1"] < 0.01
    assert divergence["ds2"] > 10 * divergence["ds1"]
    assert divergence["ds3_country_x_season"] > divergence["ds2"] * 0.9
