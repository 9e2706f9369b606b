"""eoforge compress, decompress and inspect over files, folders in the official layout, and tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest
import rasterio

from benchmarks.codec.samples import untrained_bundle
from eoforge.bundle import Bundle
from eoforge.cli import main
from eoforge.cli.compression.files import atomic_path
from eoforge.codec.cog import write_cogs
from eoforge.codec.raster import Georeference, Raster, factor_of, from_pair
from eoforge.data.bands import GROUP_OF
from eoforge.data.records import PatchPair, record_batch
from eoforge.data.synthetic.archive import generate_archive, synthetic_pairs
from eoforge.data.tables.schema import PATCHES
from tests.services.compression.fixtures import SMALL, write_codec_bundle

COUNT = 3


@pytest.fixture(scope="module")
def pairs() -> tuple[PatchPair, ...]:
    return tuple(synthetic_pairs(COUNT, seed=6))


@pytest.fixture(scope="module")
def table(pairs: tuple[PatchPair, ...], tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("table") / "patches.lance")
    lance.write_dataset(record_batch(pairs), uri, schema=PATCHES)
    return uri


@pytest.fixture(scope="module")
def bundle(pairs: tuple[PatchPair, ...], table: str, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = str(tmp_path_factory.mktemp("runs"))
    return write_codec_bundle(folder, pairs, {"uri": table, "version": 1})


def run(capsys: pytest.CaptureFixture[str], *args: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*map(str, args), "--json"]) == 0, capsys.readouterr().err
    return dict(json.loads(capsys.readouterr().out))


def refused(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str]:
    code = main([*map(str, args), "--json"])
    return code, json.loads(capsys.readouterr().err.splitlines()[-1])["error"]["message"]


def test_round_trip_of_one_file(
    pairs: tuple[PatchPair, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raster = from_pair(pairs[0])
    source = tmp_path / "radar.tif"
    source.write_bytes(write_cogs(raster)["s1"])
    made = run(capsys, "compress", source, tmp_path / "radar.eofc", "--max-error", "0")
    assert made["streams"] == 1
    header = run(capsys, "inspect", tmp_path / "radar.eofc")
    assert (header["kind"], header["bands"], header["patch_id"]) == ("bounded", "VV VH", "radar")
    assert header["bytes"] == made["stream_bytes"] == (tmp_path / "radar.eofc").stat().st_size
    run(capsys, "decompress", tmp_path / "radar.eofc", tmp_path / "back.tif")
    with rasterio.open(tmp_path / "back.tif") as back, rasterio.open(source) as given:
        assert (back.crs, back.transform, back.descriptions) == (given.crs, given.transform, ("VV", "VH"))
        np.testing.assert_array_equal(back.read(), given.read())


def test_a_folder_in_the_official_layout(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate_archive(str(tmp_path / "archive"), 1, 0)
    made = run(capsys, "compress", tmp_path / "archive", tmp_path / "streams", "--bundle", bundle.uri, "--quality", 6)
    assert made["streams"] == 2, "one optical and one radar raster; maps and metadata are no bands"
    assert made["ratio"] > 4
    run(capsys, "decompress", tmp_path / "streams", tmp_path / "back", "--bundle", bundle.uri)
    grids = sorted(p.stem.rsplit("_", 2)[-1] for p in (tmp_path / "back").rglob("*.tif"))
    assert grids == ["10m", "20m", "60m", "s1"]
    for path in (tmp_path / "back").rglob("*_10m.tif"):
        with rasterio.open(path) as back:
            assert back.crs.to_epsg()
            assert back.transform.a == 10
            for index, band in enumerate(back.descriptions, start=1):
                [original] = (tmp_path / "archive").rglob(f"*_{band}.tif")
                with rasterio.open(original) as given:
                    assert back.transform == given.transform
                    error = np.abs(back.read(index).astype(float) - given.read(1).astype(float)).mean()
                    assert error < given.read(1).std(), "that would be no picture of the original"


def test_round_trip_of_a_table(
    table: str, bundle: Bundle, pairs: tuple[PatchPair, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    streams = tmp_path / "streams.lance"
    made = run(capsys, "compress", table, streams, "--bundle", bundle.uri, "--quality", 3)
    assert (made["patches"], made["added"]) == (COUNT, 2 * COUNT)
    patch_id = pairs[1].meta.patch_id
    back = run(capsys, "decompress", streams, tmp_path / "out", "--patch-id", patch_id)
    assert (back["patches"], back["files"]) == (1, 4)
    assert {p.name.removeprefix(patch_id) for p in (tmp_path / "out").iterdir()} == {
        "_s1.tif",
        "_s2_10m.tif",
        "_s2_20m.tif",
        "_s2_60m.tif",
    }
    assert refused(capsys, "decompress", streams, tmp_path / "out", "--patch-id", "nobody")[0] == 1
    assert refused(capsys, "decompress", table, tmp_path / "out")[0] == 2


def test_a_codec_without_trained_codes_compresses_files_but_no_table(
    pairs: tuple[PatchPair, ...], table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = untrained_bundle(str(tmp_path / "runs"), pairs, SMALL.compression())
    (tmp_path / "a.tif").write_bytes(write_cogs(from_pair(pairs[0]))["s1"])
    run(capsys, "compress", tmp_path / "a.tif", tmp_path / "a.eofc", "--bundle", first.uri)
    run(capsys, "decompress", tmp_path / "a.eofc", tmp_path / "back.tif", "--bundle", first.uri)
    code, message = refused(capsys, "compress", table, tmp_path / "out.lance", "--bundle", first.uri)
    assert code != 0
    assert "Name the bundle of the whole run" in message
    assert not (tmp_path / "out.lance").exists(), "nothing was created before the bundle was looked at"


def test_round_trip_of_a_large_raster_in_tiles(
    pairs: tuple[PatchPair, ...], bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bands of three grids, 600 pixels at 10 m: read by windows, no seam at the tile's border, place and names kept."""
    patch = from_pair(pairs[0], ("s2",)).bands
    place = Georeference("EPSG:32634", (10.0, 0.0, 400_000.0, 0.0, -10.0, 5_100_000.0))
    scene = Raster({b: np.tile(patch[b], (5, 5)) for b in ("B03", "B05", "B09")}, georeference=place)
    (tmp_path / "scene").mkdir()
    for grid, content in write_cogs(scene).items():
        [band] = (b for b in scene.bands if grid in (GROUP_OF[b].column,))
        (tmp_path / "scene" / f"large_{band}.tif").write_bytes(content)
    for rate in (("--bundle", bundle.uri, "--quality", 5), ("--max-error", 3)):
        streams, back = tmp_path / f"streams{rate[0]}", tmp_path / f"back{rate[0]}"
        assert run(capsys, "compress", tmp_path / "scene", streams, *rate)["streams"] == 1
        header = run(capsys, "inspect", streams / "large.eofc")
        assert (header["tile"], header["height"], header["width"]) == (504, 600, 600)
        run(capsys, "decompress", streams, back, *(rate[:2] if rate[0] == "--bundle" else ()))
        assert not list(tmp_path.rglob(".eoforge-*")), "what is half done is gone"
        for grid, band in (("s2_10m", "B03"), ("s2_20m", "B05"), ("s2_60m", "B09")):
            with rasterio.open(back / f"large_{grid}.tif") as file:
                assert (file.crs.to_epsg(), file.descriptions) == (32634, (band,))
                assert file.transform.a == 10 * factor_of(band)
                assert bool(file.overviews(1)) == (grid == "s2_10m"), "a COG of more than one block has overviews"
                error = file.read(1).astype(float) - scene.bands[band]
            if rate[0] == "--max-error":
                assert np.abs(error).max() <= 3
            else:
                jumps = np.abs(np.diff(error, axis=1)).mean(axis=0)
                border = 504 // factor_of(band)
                assert jumps[border - 2 : border + 2].mean() < 2 * jumps.mean()
                assert error.std() < scene.bands[band].std()


def test_refusals_name_a_remedy(
    pairs: tuple[PatchPair, ...], table: str, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raster = from_pair(pairs[0])
    for grid, content in write_cogs(raster).items():
        (tmp_path / f"{grid}.tif").write_bytes(content)
    out = tmp_path / "out"
    one = tmp_path / "s2_60m.tif"
    made = run(capsys, "compress", one, tmp_path / "x.eofc", "--bundle", bundle.uri)
    assert made["streams"] == 1
    cases: list[tuple[tuple[object, ...], int, str]] = [
        (("compress", one, out), 2, "--bundle"),
        (("compress", one, out, "--max-error", "few"), 2, "DN,dB"),
        (("compress", one, out, "--max-error", "0", "--quality", "3"), 2, "exclude"),
        (("compress", one, out, "--bundle", bundle.uri, "--quality", "9"), 2, "0 to 7"),
        (("compress", tmp_path / "nothing", out, "--max-error", "0"), 1, "no GeoTIFF"),
        (("compress", table, out, "--bundle", bundle.uri, "--max-error", "8"), 2, "DN,dB"),
        (("compress", table, out, "--max-error", "0"), 2, "--bundle"),
        (("decompress", tmp_path / "x.eofc", out), 2, "--bundle"),
        (("decompress", one, out), 3, "no stream"),
        (("inspect", one), 3, "no stream"),
        (("inspect", out), 1, "no stream at"),
    ]
    for args, code, text in cases:
        found, message = refused(capsys, *args)
        assert (found, text in message) == (code, True), (args, found, message)


def test_an_unfinished_file_is_not_visible(
    pairs: tuple[PatchPair, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, streams = tmp_path / "tiffs", tmp_path / "streams"
    with atomic_path(folder / "a.tif") as unfinished:
        unfinished.write_bytes(write_cogs(from_pair(pairs[0]))["s1"])
        assert refused(capsys, "compress", folder, streams, "--max-error", "0")[1].startswith("no GeoTIFF")
    with atomic_path(streams / "half.eofc") as unfinished:
        unfinished.write_bytes(b"EOFC")
        assert run(capsys, "compress", folder, streams, "--max-error", "0")["streams"] == 1
        assert run(capsys, "decompress", streams, tmp_path / "back")["streams"] == 1


def small_radar(pairs: tuple[PatchPair, ...]) -> bytes:
    return write_cogs(from_pair(pairs[0], ("s1",)).window(0, 0, 12, 12))["s1"]


def test_a_folder_with_foreign_and_bad_files(
    pairs: tuple[PatchPair, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """macOS and Windows leave files of their own; of the others, the bad ones are named and the good ones made."""
    folder, streams, back = tmp_path / "in", tmp_path / "streams", tmp_path / "back"
    (folder / "sub").mkdir(parents=True)
    good = small_radar(pairs)
    for name in ("a.tif", "sub/b.tif"):
        (folder / name).write_bytes(good)
        (folder / name).with_name("._" + Path(name).name).write_bytes(b"\0\5\26\7")
    for name in (".DS_Store", "Thumbs.db", "__MACOSX/c.tif", ".hidden/c.tif"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    assert run(capsys, "compress", folder, streams, "--max-error", "0")["streams"] == 2
    (folder / "bad.tif").write_bytes(good[:500])
    (folder / "worse.tif").write_bytes(b"no tiff")
    code = main(["compress", str(folder), str(streams), "--max-error", "0", "--json"])
    made = json.loads(capsys.readouterr().out)
    assert (code, made["streams"], made["failed"]) == (3, 2, 2)
    assert [(f["name"], f["reason"]) for f in made["failures"]] == [("bad", "DATA_REFUSED"), ("worse", "DATA_REFUSED")]
    assert main(["compress", str(folder), str(streams), "--max-error", "0"]) == 3
    people = capsys.readouterr()
    assert "failed: worse: " in people.err.replace("\n", " ")
    assert "failed" in people.out

    (streams / "bad.eofc").write_bytes((streams / "a.eofc").read_bytes()[:-9])
    (streams / "._a.eofc").write_bytes(b"\0\5\26\7")
    code = main(["decompress", str(streams), str(back), "--json"])
    made = json.loads(capsys.readouterr().out)
    assert (code, made["streams"], made["failed"], made["failures"][0]["name"]) == (3, 2, 1, "bad")
    assert {p.relative_to(back).as_posix() for p in back.rglob("*.tif")} == {"a_s1.tif", "sub/b_s1.tif"}


def test_output_into_an_existing_folder(
    pairs: tuple[PatchPair, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "a.tif", tmp_path / "out"
    source.write_bytes(small_radar(pairs))
    out.mkdir()
    made = run(capsys, "compress", source, out, "--max-error", "0")
    assert made["target"] == str(out / "a.eofc")
    assert (out / "a.eofc").is_file()
    run(capsys, "compress", source, f"{tmp_path}/new/", "--max-error", "0")
    assert (tmp_path / "new" / "a.eofc").is_file()
    run(capsys, "decompress", out / "a.eofc", out)
    assert (out / "a_s1.tif").is_file()
    (tmp_path / "folder.tif").mkdir()
    run(capsys, "decompress", out / "a.eofc", tmp_path / "folder.tif")
    assert (tmp_path / "folder.tif" / "a_s1.tif").is_file()
    for args in (("compress", out, source, "--max-error", "0"), ("decompress", out, source)):
        code, message = refused(capsys, *args)
        assert (code, "is a file" in message) == (2, True), message


def test_nodata_and_masks_survive_and_what_does_not_is_named(
    pairs: tuple[PatchPair, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = from_pair(pairs[0], ("s2",)).bands["B04"].copy()
    pixels[:9, :30] = 700
    source = tmp_path / "a.tif"
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(source, "w", driver="GTiff", height=120, width=120, count=1, dtype="uint16", nodata=700) as sink,
    ):
        sink.set_band_description(1, "B04")
        sink.update_tags(ns="mine", a="b")
        sink.write(pixels, 1)
        sink.write_mask(np.arange(14_400).reshape(120, 120) > 600)
    made = run(capsys, "compress", source, tmp_path / "a.eofc", "--max-error", 9)
    assert made["warnings"] == ["a: not kept: metadata of B04 in the domains mine"]
    header = run(capsys, "inspect", tmp_path / "a.eofc")
    assert (header["nodata"], header["masked"]) == ("s2_10m 700", "s2_10m")
    run(capsys, "decompress", tmp_path / "a.eofc", tmp_path / "back.tif")
    with rasterio.open(tmp_path / "back.tif") as back, rasterio.open(source) as given:
        assert back.nodata == 700
        np.testing.assert_array_equal(back.read_masks(1), given.read_masks(1))
        np.testing.assert_array_equal(back.read(1) == 700, pixels == 700)


def test_bad_rasters_and_streams_are_refused_and_leave_nothing(
    pairs: tuple[PatchPair, ...], bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def written(name: str, bands: dict[str, np.ndarray], **profile: Any) -> Path:
        path = tmp_path / name
        first = next(iter(bands.values()))
        shape = {"height": first.shape[0], "width": first.shape[1], "count": len(bands), "dtype": first.dtype}
        with rasterio.open(path, "w", driver="GTiff", **(shape | profile)) as sink:
            for index, (band, pixels) in enumerate(bands.items(), start=1):
                sink.write(pixels, index)
                sink.set_band_description(index, band)
        return path

    radar = {band: pixels.copy() for band, pixels in from_pair(pairs[0], ("s1",)).bands.items()}
    radar["VH"][7, 5] = np.nan
    holes = written("holes.tif", radar)
    foreign = written("foreign.tif", {"": np.zeros((30, 30), np.uint8)})
    floats = written("floats.tif", {"B04": np.zeros((30, 30), np.float32)})
    large = written("large.tif", {"B04": np.tile(from_pair(pairs[0], ("s2",)).bands["B04"], (6, 6))})
    large.write_bytes(large.read_bytes()[:700_000])
    vast = tmp_path / "vast.tif"
    with rasterio.open(
        vast, "w", driver="GTiff", height=60_000, width=60_000, count=1, dtype="uint16", sparse_ok=True, tiled=True
    ) as sink:
        sink.set_band_description(1, "B04")
    learned = ("--bundle", bundle.uri)
    out = tmp_path / "out.eofc"
    for source, rate, code, text in (
        (holes, learned, 3, "VH holds values that are not finite"),
        (foreign, learned, 2, "1 bands but 0 names"),
        (floats, learned, 2, "B04 must be uint16; got float32"),
        (large, ("--max-error", 9), 3, "not a readable GeoTIFF"),
        (vast, learned, 2, "claims 7200000000 bytes of pixels"),
    ):
        found, message = refused(capsys, "compress", source, out, *rate)
        assert (found, text in message) == (code, True), (source.name, found, message)
        assert not out.exists()
        assert not list(tmp_path.glob(".eoforge-*"))
    run(capsys, "compress", holes, out, "--max-error", "0")
    out.write_bytes(out.read_bytes()[:-20])
    found, message = refused(capsys, "decompress", out, tmp_path / "back.tif")
    assert (found, "truncated" in message) == (3, True)
    assert not (tmp_path / "back.tif").exists()
