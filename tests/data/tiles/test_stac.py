"""STAC Items whose assets name the bands."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eoforge.data.bands import GROUP_OF, S2_BANDS
from eoforge.data.ingest.run import ingest
from eoforge.data.synthetic.tile import SyntheticTile
from eoforge.data.tiles.files import TileFiles
from eoforge.data.tiles.find import find_products
from eoforge.data.tiles.options import TileOptions
from eoforge.data.tiles.stac import read_stac, stac_item
from eoforge.errors import DataRefused
from tests.data.tiles.support import assert_equal, cells, held

Copy = Callable[..., Path]
COMMON = {"B02": "blue", "B03": "green", "B04": "red", "B08": "nir", "B8A": "nir08"}


def item(product: Path, suffix: str, **properties: Any) -> dict[str, Any]:
    assets: dict[str, Any] = {"thumbnail": {"href": "./B02.png", "roles": ["thumbnail"]}}
    for band in S2_BANDS:
        files = sorted(product.rglob(f"*{band}*{suffix}"))
        (path,) = [p for p in files if p.stem == band or f"_{GROUP_OF[band].resolution}m" in p.stem]
        asset = {"href": f"./{path.relative_to(product.parent)}", "eo:bands": [{"name": band}], "roles": ["data"]}
        if suffix == ".jp2":
            size, metres = GROUP_OF[band].size, GROUP_OF[band].resolution
            asset |= {
                "proj:transform": [metres, 0, 314_400, 0, -metres, 5_373_600],
                "proj:shape": [3 * size + size // 2, 2 * size + size // 2],
            }
        assets[COMMON.get(band, band)] = asset
    name = product.name.removesuffix(".SAFE")
    known = {"s2:product_uri": f"{name}.SAFE", "proj:epsg": 32633, "datetime": "2017-06-13T10:10:31Z"}
    return {"type": "Feature", "stac_version": "1.0.0", "id": "x", "properties": known | properties, "assets": assets}


def save(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "item.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("suffix", [".tif", ".jp2"])
def test_an_item_gives_what_its_product_gives(
    suffix: str, safe: SyntheticTile, cogs: SyntheticTile, copy: Copy, tmp_path: Path
) -> None:
    product = copy(cogs.product if suffix == ".tif" else safe.product, "data")
    source = cogs.product if suffix == ".tif" else safe.product
    content = item(product, suffix, **{"earthsearch:boa_offset_applied": True, "s2:product_uri": source.name})
    save(product.parent, content)
    if suffix == ".jp2":
        (product / "MTD_MSIL2A.xml").unlink()  # the item alone describes it
    ingest(
        str(product.parent),
        str(tmp_path / "p.lance"),
        tiles=TileOptions(land_cover=str(safe.land_cover), radar=str(safe.radar), radar_scale="db"),
    )
    assert_equal(held(tmp_path / "p.lance"), cells())


@pytest.mark.parametrize(
    ("properties", "asset", "expected"),
    [
        ({"earthsearch:boa_offset_applied": True}, {}, 0),
        ({}, {"raster:bands": [{"scale": 0.0001, "offset": -0.1}]}, -1000),
        ({}, {"raster:bands": [{"scale": 0.0001, "offset": 0}]}, 0),
        ({"s2:processing_baseline": "05.11", "earthsearch:boa_offset_applied": False}, {}, -1000),
        ({"s2:processing_baseline": "02.12"}, {}, 0),
        ({"s2:processing_baseline": "05.11"}, {}, None),
        ({"s2:processing_baseline": "05.11"}, {"raster:bands": [{"scale": 0.0001}]}, None),
        ({}, {}, None),
    ],
)
def test_the_offset_of_an_item(
    properties: dict[str, Any], asset: dict[str, Any], expected: int | None, cogs: SyntheticTile, copy: Copy
) -> None:
    product = copy(cogs.product)
    content = item(product, ".tif", **properties)
    for value in content["assets"].values():
        value |= asset
    save(product.parent, content)
    (found,) = find_products(TileFiles(str(product.parent)))
    if expected is None:
        with pytest.raises(DataRefused, match="--boa-offset"):
            found.offsets.known(found.where, None)
    else:
        assert set(found.offsets.known(found.where, None).values()) == {expected}


@pytest.mark.parametrize(
    "href", ["https://example.org/B02.tif", "/etc/passwd", "../../outside/B02.tif", "{root}/a/../../outside/B02.tif"]
)
def test_assets_elsewhere_are_refused(href: str, cogs: SyntheticTile, copy: Copy, tmp_path: Path) -> None:
    product = copy(cogs.product)
    content = item(product, ".tif")
    content["assets"]["blue"]["href"] = href.format(root=product.parent)
    save(product.parent, content)
    with pytest.raises(DataRefused, match="lies outside"):
        ingest(str(product.parent), str(tmp_path / "p.lance"), tiles=TileOptions(boa_offset=0))


@pytest.mark.parametrize(
    "value",
    [True, 1e308, 1e-320, float("inf"), float("nan"), 10**400, "9" * 5000, [None], {}],
    ids=lambda v: repr(v)[:12],
)
def test_values_of_another_kind_are_no_failures_of_ours(value: Any, tmp_path: Path) -> None:
    asset = {"href": "./B02.jp2", "proj:transform": [10, 0, 1, 0, -10, 1], "proj:shape": [1, 1], "raster:scale": 1e-4}
    for key in ("roles", "proj:transform", "proj:shape", "raster:scale", "raster:offset", "eo:bands"):
        given: list[Any] = [value]
        if key.startswith("proj:"):
            usual: list[Any] = list(asset[key])
            given += [[*usual[:i], value, *usual[i + 1 :]] for i in range(len(usual))]
        for changed in given:
            content = {"type": "Feature", "stac_version": "1.0.0", "id": "x", "properties": {"proj:epsg": 32633}}
            save(tmp_path, content | {"assets": {"B02": asset | {key: changed}}})
            files = TileFiles(str(tmp_path))
            found = stac_item(files, "item.json")
            assert found is not None
            try:
                product = read_stac(files, "item.json", found)
            except DataRefused:
                continue
            grid = product.bands["B02"].grid if "B02" in product.bands else None
            assert grid is None or math.isfinite(grid.left + grid.top)
