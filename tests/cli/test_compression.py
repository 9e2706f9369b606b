"""eoforge compress, decompress and inspect over files, folders in the official layout, and tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest
import rasterio

from eoforge.bundle import Bundle
from eoforge.cli import main
from eoforge.codec.cog import write_cogs
from eoforge.codec.raster import from_pair
from eoforge.data.records import PatchPair, record_batch
from eoforge.data.schema import PATCHES
from eoforge.data.synthetic import generate_archive, synthetic_pairs
from tests.services.compression_world import write_codec_bundle

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


def test_one_file_there_and_back(
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


def test_a_table_becomes_streams_and_comes_back(
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


def test_what_is_refused_says_what_to_do(
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
