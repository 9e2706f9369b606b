"""Synthetic archive: follows the official rules, and resembles real data in measured statistics."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from eoforge.data.archives.open import open_archive
from eoforge.data.bands import S2_BANDS
from eoforge.data.labels import CLASSES, CLC_TO_CLASS, KNOWN_CLC, UNLABELED_CLC
from eoforge.data.names import parse_patch_id, parse_s1_name, parse_s2v1_name
from eoforge.data.records import PatchPair
from eoforge.data.split import SPLITS, official_split
from eoforge.data.synthetic import archive as synthetic
from eoforge.data.synthetic.archive import MAX_PATCHES, generate_archive, synthetic_pairs
from eoforge.data.synthetic.land import ground, local_numbers
from eoforge.data.synthetic.scenes import COUNTRIES, SCENES
from eoforge.errors import UsageError

# Mean per band of the official training split as published; ours must lie within 35 % of a standard deviation.
REAL_MEAN_STD = {
    "B01": (361, 575), "B02": (438, 607), "B03": (614, 603), "B04": (588, 685), "B05": (943, 738), "B06": (1770, 1100),
    "B07": (2050, 1276), "B08": (2193, 1369), "B8A": (2236, 1357), "B09": (2241, 1316), "B11": (1568, 1070),
    "B12": (998, 814), "VV": (-12.64, 5.13), "VH": (-19.35, 5.59),
}  # fmt: skip


@pytest.fixture(scope="module")
def pairs() -> list[PatchPair]:
    return list(synthetic_pairs(240, seed=3))


def _lag_1(image: np.ndarray) -> float:
    return float(np.corrcoef(image[:, 1:].ravel(), image[:, :-1].ravel())[0, 1])


def _clear(pairs: list[PatchPair]) -> list[PatchPair]:
    return [p for p in pairs if not (p.meta.contains_seasonal_snow or p.meta.contains_cloud_or_shadow)]


def test_rasters_have_native_shapes_and_valid_values(pairs: list[PatchPair]) -> None:
    for p in pairs:
        assert [a.shape for a in (p.s2_10m, p.s2_20m, p.s2_60m, p.s1)] == [
            (4, 120, 120),
            (6, 60, 60),
            (2, 20, 20),
            (2, 120, 120),
        ]
        assert all(a.dtype == np.uint16 and a.min() > 0 for a in (p.s2_10m, p.s2_20m, p.s2_60m))
        assert p.s1.dtype == np.float32
        assert np.isfinite(p.s1).all()


def test_names_and_splits_follow_the_official_rules(pairs: list[PatchPair]) -> None:
    for p in pairs:
        patch, s1 = parse_patch_id(p.meta.patch_id), parse_s1_name(p.meta.s1_name)
        assert (s1.mgrs, s1.x, s1.y) == (patch.tile.mgrs, patch.x, patch.y)
        assert p.meta.split == official_split(patch.x, patch.y)
        assert abs((patch.tile.acquired - s1.scene.acquired).days) <= 6
        parse_s2v1_name(p.meta.s2v1_name)
    for name in ("patch_id", "s1_name", "s2v1_name"):
        assert len({getattr(p.meta, name) for p in pairs}) == len(pairs)


def test_labels_follow_from_the_map_by_the_official_rule(pairs: list[PatchPair]) -> None:
    unlabelled = 0
    for p in pairs:
        assert p.reference_map is not None
        codes = set(np.unique(p.reference_map).tolist())
        assert codes <= KNOWN_CLC
        assert p.meta.labels == tuple(sorted({CLASSES[CLC_TO_CLASS[c]] for c in codes if c in CLC_TO_CLASS}))
        assert p.meta.labels
        share = np.isin(p.reference_map, UNLABELED_CLC).mean()
        assert share < 0.25
        unlabelled += bool(share)
    assert unlabelled, "no unlabelled CLC code anywhere: the rule was not exercised"
    assert 2.3 < np.mean([len(p.meta.labels) for p in pairs]) < 4.0  # official: 2.95


@pytest.mark.parametrize("patches", [8, 40, 240])
def test_every_split_is_there_in_its_share(patches: int, pairs: list[PatchPair]) -> None:
    splits = [p.meta.split for p in pairs[:patches]]
    assert [splits.count(s) / patches for s in SPLITS] == [0.5, 0.25, 0.25]


def test_scenes_are_official_pairings(shared_data: Path) -> None:
    columns = ["patch_id", "s1_name", "country"]
    names = ["metadata.parquet", "metadata_for_patches_with_snow_cloud_or_shadow.parquet"]
    frames = [pq.read_table(shared_data / "reben-metadata" / n, columns=columns).to_pandas() for n in names]
    real = set()
    for frame in frames:
        scene = frame.patch_id.str.rsplit("_", n=2).str[0]
        real |= set(zip(scene, frame.s1_name.str.rsplit("_", n=3).str[0], frame.country, strict=True))
    for scene in SCENES:
        countries = {scene.country, *([scene.across[0]] if scene.across else [])}
        assert {(scene.s2, scene.s1, country) for country in countries} <= real


def test_band_means_resemble_the_official_statistics(pairs: list[PatchPair]) -> None:
    clear = _clear(pairs)
    for band, (mean, std) in REAL_MEAN_STD.items():
        column, channel = _find(band)
        values = np.stack([getattr(p, column)[channel] for p in clear]).astype(np.float64)
        assert abs(values.mean() - mean) < 0.35 * std, f"{band}: mean {values.mean():.1f}, real {mean}"
        assert 0.2 * std < values.std() < 1.5 * std, f"{band}: std {values.std():.1f}, real {std}"


def _find(band: str) -> tuple[str, int]:
    from eoforge.data.bands import GROUP_OF

    return GROUP_OF[band].column, GROUP_OF[band].bands.index(band)


def test_spatial_correlation_is_in_the_range_of_real_data(pairs: list[PatchPair]) -> None:
    land = [p for p in _clear(pairs) if not any("water" in label for label in p.meta.labels)]
    for band in (*S2_BANDS, "VV", "VH"):
        column, channel = _find(band)
        lag = np.median([_lag_1(getattr(p, column)[channel].astype(np.float64)) for p in land])
        assert 0.6 < lag < 0.99, f"{band}: median lag-1 correlation {lag:.2f}"


def test_spectra_follow_land_cover_and_season(pairs: list[PatchPair]) -> None:
    by_class: dict[str, list[float]] = {"water": [], "wood": []}
    ndvi: dict[str, list[float]] = {"summer": [], "winter": []}
    for p in _clear(pairs):
        assert p.reference_map is not None
        red, nir = p.s2_10m[2].astype(float), p.s2_10m[3].astype(float)
        water, broad = np.isin(p.reference_map, (511, 512, 523)), p.reference_map == 311
        if water.sum() > 500:
            by_class["water"].append(nir[water].mean())
        if broad.sum() > 500:
            by_class["wood"].append(nir[broad].mean())
            month = parse_patch_id(p.meta.patch_id).tile.acquired.month
            season = "summer" if month in (5, 6, 7, 8) else "winter" if month in (11, 12, 1, 2) else None
            if season and p.meta.country != "Portugal":
                ndvi[season].append(((nir - red) / (nir + red))[broad].mean())
    assert max(by_class["water"]) < 500 < 1000 < min(by_class["wood"])
    assert np.mean(ndvi["summer"]) > np.mean(ndvi["winter"]) + 0.15


def test_speckle_has_the_looks_of_a_grd_product(pairs: list[PatchPair]) -> None:
    """On calm sea, mean^2 / variance of intensity is the equivalent number of looks."""
    looks = []
    for p in pairs:
        if p.reference_map is not None and (p.reference_map == 523).all():
            intensity = 10 ** (p.s1[0].astype(np.float64) / 10)
            looks.append(intensity.mean() ** 2 / intensity.var())
    assert looks
    assert 3.8 < np.median(looks) < 5.2


def test_both_sensors_show_the_same_ground(pairs: list[PatchPair]) -> None:
    """VH (biomass) correlates with near infrared in a pair, and not with that of another pair."""

    def smooth(image: np.ndarray) -> np.ndarray:
        blocks = image.astype(np.float64).reshape(15, 8, 15, 8).mean(axis=(1, 3))
        return (blocks - blocks.mean()) / (blocks.std() + 1e-9)

    clear = [p for p in _clear(pairs) if len(p.meta.labels) > 2]
    own = np.array([abs((smooth(p.s1[1]) * smooth(p.s2_10m[3])).mean()) for p in clear])
    others = zip(clear, clear[1:] + clear[:1], strict=True)
    other = np.array([abs((smooth(p.s1[1]) * smooth(q.s2_10m[3])).mean()) for p, q in others])
    assert own.mean() > 2 * other.mean()
    assert (own > other).mean() > 0.75


def test_snow_and_clouds_are_visible_and_in_both_flags(pairs: list[PatchPair]) -> None:
    snow = [p for p in pairs if p.meta.contains_seasonal_snow]
    cloud = [p for p in pairs if p.meta.contains_cloud_or_shadow]
    assert snow
    assert cloud
    blue = [p.s2_10m[0].mean() for p in _clear(pairs)]
    assert np.mean([p.s2_10m[0].mean() for p in snow]) > 4 * np.mean(blue)
    assert np.median([np.percentile(p.s2_10m[0], 95) for p in cloud]) > 4000
    assert all(SCENES[[s.s2 for s in SCENES].index(p.meta.patch_id[:44])].snow for p in snow)


def test_neighbouring_patches_fit_together() -> None:
    scene = SCENES[0]
    west, east = (parse_patch_id(f"{scene.s2}_{x}_40").footprint for x in (30, 31))
    maps = [ground(0, p.epsg, scene.country, p.ulx, p.uly) for p in (west, east)]
    seam = maps[0].clc[:, -1] == maps[1].clc[:, 0]
    assert seam.mean() > 0.93
    assert np.abs(maps[0].relief[:, -1] - maps[1].relief[:, 0]).max() < 0.1


def test_longer_runs_start_with_the_shorter_one_and_seeds_differ() -> None:
    short, long, other = list(synthetic_pairs(5, 1)), list(synthetic_pairs(9, 1)), list(synthetic_pairs(5, 2))
    for a, b in zip(short, long, strict=False):
        assert a.meta == b.meta
        assert np.array_equal(a.s1, b.s1)
        assert np.array_equal(a.s2_20m, b.s2_20m)
    assert [p.meta.patch_id for p in short] != [p.meta.patch_id for p in other]


def _fingerprint(root: Path) -> dict[str, str]:
    files = (f for f in sorted(root.rglob("*")) if f.is_file())
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_archive_is_valid_and_independent_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "_PATCHES_PER_WORKER", 22)
    one = generate_archive(str(tmp_path / "one"), 44, seed=7)
    two = generate_archive(str(tmp_path / "two"), 44, seed=7, workers=2)
    assert _fingerprint(tmp_path / "one") == _fingerprint(tmp_path / "two")
    assert one.splits == two.splits == {"train": 22, "validation": 11, "test": 11}

    archive = open_archive(one.uri)
    rows = archive.metadata()
    results = list(archive.read(rows))
    assert len(results) == 44
    assert [d for r in results for d in r.defects] == []
    expected = {p.meta.patch_id: p for p in synthetic_pairs(44, 7)}
    for result in results:
        made = expected[result.meta.patch_id]
        assert result.pair is not None
        assert result.meta == made.meta
        for name in ("s2_10m", "s2_20m", "s2_60m", "s1", "reference_map"):
            assert np.array_equal(getattr(result.pair, name), getattr(made, name)), name

    flagged = pq.read_table(tmp_path / "one" / "metadata_for_patches_with_snow_cloud_or_shadow.parquet")
    assert flagged.num_rows == one.snow + one.cloud > 0
    main = pq.read_table(tmp_path / "one" / "metadata.parquet").to_pandas()
    assert not main.contains_seasonal_snow.any()
    assert not main.contains_cloud_or_shadow.any()
    assert main.patch_id.is_monotonic_increasing


def test_maps_and_weather_can_be_left_out(tmp_path: Path) -> None:
    summary = generate_archive(str(tmp_path / "a"), 8, reference_maps=False, snow_cloud=False)
    assert summary.snow == summary.cloud == 0
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "BigEarthNet-S1",
        "BigEarthNet-S2",
        "metadata.parquet",
    ]


def test_refuses_to_mix_with_an_archive_and_bad_sizes(tmp_path: Path) -> None:
    generate_archive(str(tmp_path / "a"), 1)
    with pytest.raises(UsageError, match="without an archive"):
        generate_archive(str(tmp_path / "a"), 1)
    for size in (0, MAX_PATCHES + 1):
        with pytest.raises(UsageError, match="synthetic patches"):
            next(synthetic_pairs(size))


def test_every_country_has_known_codes() -> None:
    for country in COUNTRIES.values():
        codes = {c for c, _ in (*country.fields, *country.wild, *country.high)} | {country.wetland_code}
        assert codes <= KNOWN_CLC


def test_a_dense_archive_has_neighbours_and_both_dates_of_a_cell(tmp_path: Path) -> None:
    def cells(dense: bool) -> list[tuple[str, int, int]]:
        names = [parse_patch_id(p.meta.patch_id) for p in synthetic_pairs(96, seed=2, dense=dense)]
        return [(n.tile.mgrs, n.x, n.y) for n in names]

    def touching(found: list[tuple[str, int, int]]) -> float:
        places = set(found)
        return sum((mgrs, x + 1, y) in places or (mgrs, x, y + 1) in places for mgrs, x, y in places) / len(places)

    dense, scattered = cells(True), cells(False)
    assert len(set(dense)) < 0.6 * len(dense)
    assert len({mgrs for mgrs, _, _ in dense}) == 3
    assert touching(dense) > 0.6
    assert touching(scattered) < 0.1
    for p in synthetic_pairs(6, seed=2, dense=True):
        name = parse_patch_id(p.meta.patch_id)
        assert p.meta.split == official_split(name.x, name.y)
    with pytest.raises(UsageError, match="dense synthetic patches"):
        generate_archive(str(tmp_path / "much"), 36_001, dense=True)


def test_a_local_character_is_shared_within_its_range_only() -> None:
    def numbers(range_km: float, east: float) -> np.ndarray:
        return np.stack([local_numbers(key, 6, range_km, 500_000 + east, 5_000_000) for key in range(300)]).ravel()

    for range_km in (0, 5, 20):
        assert abs(numbers(range_km, 0).std() - 1) < 0.1
        assert abs(numbers(range_km, 0).mean()) < 0.08
    apart = {
        (r, d): np.corrcoef(numbers(r, 0), numbers(r, d))[0, 1] for r in (0, 5, 20) for d in (1200, 12_000, 90_000)
    }
    assert apart[5, 1200] > 0.9
    assert apart[20, 12_000] > 0.6
    assert all(abs(apart[key]) < 0.1 for key in ((0, 1200), (0, 12_000), (5, 90_000), (20, 90_000)))


def test_a_local_character_changes_colours_and_land_use_but_not_the_shares_of_a_country() -> None:
    place = (1, 32632, "Switzerland", 500_040, 5_100_000)
    plain, local = ground(*place), ground(*place, local_km=5)
    np.testing.assert_array_equal(plain.relief, local.relief)
    assert plain.tint is None
    assert local.tint is not None
    assert local.tint.shape == (14,)
    assert (plain.clc != local.clc).mean() > 0.1
    farmed = [
        np.mean([(ground(seed, 32632, "Austria", 500_040, 5_100_000, km).clc // 100 == 2).mean() for seed in range(60)])
        for km in (None, 0)
    ]
    assert abs(farmed[0] - farmed[1]) < 0.12
    pairs = [next(synthetic_pairs(1, seed=3, local_km=km)) for km in (None, 0)]
    assert not np.array_equal(pairs[0].s1, pairs[1].s1)
    assert not np.array_equal(pairs[0].s2_60m, pairs[1].s2_60m)


@pytest.mark.parametrize("range_km", [-1, 0.5, 1001, float("nan")])
def test_a_local_range_out_of_bounds_is_refused(range_km: float, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="0, or 1 to 1000 km"):
        generate_archive(str(tmp_path / "archive"), 4, local_km=range_km)
