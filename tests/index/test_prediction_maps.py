"""Export of predictions: class maps with palette and names, values with intervals, read back by rasterio."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
import rasterio
from rio_cogeo.cogeo import cog_validate

from eoforge.cli import main
from eoforge.data.export.run import export
from eoforge.data.labels import CLASS_COLOURS, CLASSES
from eoforge.data.records import PatchPair
from eoforge.data.synthetic.archive import synthetic_cell
from eoforge.errors import DataRefused, UsageError
from eoforge.geo.footprint import Footprint
from eoforge.index.code_table import MadeTableInfo
from eoforge.index.prediction_maps import export_predictions, placed_maps
from eoforge.index.predictions import predict_table
from eoforge.storage.addresses import TableRef, open_table
from tests.index.conftest import make_bundle, write_patches
from tests.index.test_predictions import PixelPredictor


@pytest.fixture(scope="module")
def placed() -> list[PatchPair]:
    """Five patches of one product, the last off its grid, not in the order of names; one has no radar image."""
    found = [synthetic_cell(0, 0, x, y) for x, y in ((4, 7), (3, 5), (4, 5), (3, 6), (10, 5))]
    place = found[-1].meta.names.footprint
    corner = Footprint(place.epsg, place.ulx + 431, place.uly - 77)
    found[-1] = replace(found[-1], meta=replace(found[-1].meta, corner=corner))
    found[3] = replace(found[3], meta=replace(found[3].meta, s1_name=None), s1=None)
    return found


@pytest.fixture(scope="module")
def predictions(placed: list[PatchPair], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("maps")
    patches, uri = str(folder / "patches.lance"), str(folder / "predictions.lance")
    bundle = make_bundle(str(folder / "runs"), patches, write_patches(patches, placed))
    predict_table(bundle.uri, TableRef(patches), uri, PixelPredictor(maps=True), shard_rows=2)
    return uri


def expected(pair: PatchPair) -> np.ndarray:
    return (np.abs(pair.s1[0]) % len(CLASSES)).astype(np.uint8)


def test_a_map_is_a_mosaic_with_palette_names_and_nodata(
    placed: list[PatchPair], predictions: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", predictions, str(tmp_path / "out"), "--format", "cog", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["patches"], done["mosaics"], done["outdated"]) == (4, 2, 0)
    tile = placed[0].meta.patch_id[:-6]
    names = [f"{tile}_1_pixel_map.tif", f"{tile}_pixel_map.tif"]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tif")) == names
    path = tmp_path / "out" / names[1]
    valid, errors, _ = cog_validate(path, quiet=True)
    assert valid, errors
    with rasterio.open(path) as source:
        classes, colours, tags = source.read(1), source.colormap(1), source.tags(1)
        assert (source.nodata, source.shape, source.dtypes) == (255, (360, 240), ("uint8",))
        corner = placed[1].meta.names.footprint
        assert (source.crs.to_epsg(), source.transform.c, source.transform.f) == (corner.epsg, corner.ulx, corner.uly)
    for index, (name, colour) in enumerate(zip(CLASSES, CLASS_COLOURS, strict=True)):
        assert colours[index][:3] == colour
        assert tags[f"CLASS_{index}"] == name
    found = ElementTree.parse(f"{path}.aux.xml").findall("./PAMRasterBand[@band='1']/CategoryNames/Category")
    assert [one.text for one in found] == list(CLASSES)
    whole = np.full((360, 240), 255, np.uint8)
    for pair in placed[:3]:
        x, y = pair.meta.names.patch.x - 3, pair.meta.names.patch.y - 5
        whole[y * 120 : (y + 1) * 120, x * 120 : (x + 1) * 120] = expected(pair)
    np.testing.assert_array_equal(classes, whole)


def test_a_deleted_patch_has_no_map(placed: list[PatchPair], tmp_path: Path) -> None:
    patches, uri = str(tmp_path / "patches.lance"), str(tmp_path / "predictions.lance")
    bundle = make_bundle(str(tmp_path / "runs"), patches, write_patches(patches, placed[:3]))
    predict_table(bundle.uri, TableRef(patches), uri, PixelPredictor(maps=True))
    gone = placed[0].meta.patch_id
    open_table(patches).delete(f"patch_id = '{gone}'")
    write_patches(patches, placed[4:])
    predict_table(bundle.uri, TableRef(patches), uri, PixelPredictor(maps=True))
    assert [one.patch_id for one in placed_maps(TableRef(uri))] == sorted(
        pair.meta.patch_id for pair in (placed[1], placed[2], placed[4])
    )
    assert export_predictions(TableRef(uri), str(tmp_path / "out"), "cog").outdated == 1


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64(), pa.fixed_shape_tensor(pa.float32(), (12, 12))])
def test_a_value_and_its_interval_are_bands(
    placed: list[PatchPair], predictions: str, tmp_path: Path, kind: pa.DataType
) -> None:
    import lance

    source = open_table(predictions)
    ids = source.to_table(columns=["patch_id"])["patch_id"].to_pylist()
    side = 12 if isinstance(kind, pa.FixedShapeTensorType) else 1
    numbers = np.arange(len(ids) * side * side, dtype=np.float32).reshape(len(ids), side, side)

    def column(offset: float) -> pa.Array:
        if side > 1:
            return pa.FixedShapeTensorArray.from_numpy_ndarray(numbers + np.float32(offset))
        values = [None if i == 1 else float(v) + offset for i, v in enumerate(numbers.reshape(-1))]
        return pa.array(values, kind)

    info = MadeTableInfo.of(source.schema, predictions)
    uri = str(tmp_path / "values.lance")
    rows = pa.table(
        {
            "patch_id": ids,
            "value": column(0),
            "lower": column(-1),
            "upper": column(1),
            "digest": source.to_table(columns=["digest"])["digest"],
        }
    )
    lance.write_dataset(rows.replace_schema_metadata(info.metadata(uri)), uri)
    done = export_predictions(TableRef(uri), str(tmp_path / "out"), "cog")
    assert (done.patches, done.mosaics) == (4, 2)
    tile = placed[0].meta.patch_id[:-6]
    with rasterio.open(tmp_path / "out" / f"{tile}_value.tif") as raster:
        assert raster.descriptions == ("value", "lower", "upper")
        assert raster.transform.a == 1200 / side
        assert np.isnan(raster.nodata)
        bands = raster.read()
    for pair in placed[:3]:
        row = ids.index(pair.meta.patch_id)
        x, y = (pair.meta.names.patch.x - 3) * side, (pair.meta.names.patch.y - 5) * side
        found = bands[:, y : y + side, x : x + side]
        wanted = numbers[row] if side > 1 or row != 1 else np.full((1, 1), np.nan, np.float32)
        np.testing.assert_array_equal(found, np.stack([wanted, wanted - 1, wanted + 1]))


def test_what_cannot_be_exported_is_said(placed: list[PatchPair], predictions: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exported as cog; got 'reben'"):
        export_predictions(TableRef(predictions), str(tmp_path / "out"), "reben")
    with pytest.raises(DataRefused, match="no table of patches"):
        export(TableRef(predictions), str(tmp_path / "out"), "cog")
    patches, uri = str(tmp_path / "patches.lance"), str(tmp_path / "predictions.lance")
    bundle = make_bundle(str(tmp_path / "runs"), patches, write_patches(patches, placed[:2]))
    predict_table(bundle.uri, TableRef(patches), uri, PixelPredictor())
    with pytest.raises(UsageError, match="holds no maps or values"):
        export_predictions(TableRef(uri), str(tmp_path / "out"), "cog")
    assert not (tmp_path / "out").exists()
