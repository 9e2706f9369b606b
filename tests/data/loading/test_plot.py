"""Images: correct bands, colours and ranges."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from eoforge.data.loading.plot import map_colours, plot, plot_patch, radar_colours, rgb, s1_composite, thumbnail_png
from eoforge.data.loading.read_pair import read_pair
from eoforge.data.records import PatchPair, digest, record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.errors import NotFound, UsageError


@pytest.fixture(scope="module")
def pair() -> PatchPair:
    return next(synthetic_pairs(1, seed=2))


def test_rgb_takes_red_green_blue_in_that_order() -> None:
    for band, channel in ((2, 0), (1, 1), (0, 2)):  # B04 B03 B02 at positions 2 1 0
        image = np.full((4, 6, 8), 50, dtype=np.uint16)
        image[band] = 1500
        picture = rgb(image)
        assert picture.shape == (6, 8, 3)
        assert picture.dtype == np.uint8
        assert picture[0, 0].argmax() == channel


def test_rgb_is_neither_black_nor_burnt_out() -> None:
    forest = np.random.default_rng(0).normal([[[220]], [[400]], [[250]], [[2500]]], 30, (4, 120, 120))
    forest[:3, :2, :2] = 12_000  # one bright roof must not darken the rest
    snow = np.random.default_rng(0).normal(8000, 300, (4, 120, 120))
    assert 40 < rgb(forest.astype(np.uint16)).mean() < 160
    assert 120 < rgb(snow.astype(np.uint16)).mean() < 254


def test_composite_separates_water_forest_and_town() -> None:
    image = np.empty((2, 1, 3), dtype=np.float32)
    image[:, 0, 0], image[:, 0, 1], image[:, 0, 2] = (-20, -28), (-10, -15), (-3, -10)
    water, forest, town = s1_composite(image)[0].astype(int)
    assert water[0] == water[1] == 0
    assert water[2] > 100
    assert forest[1] > forest[2]
    assert town.sum() > forest.sum() > water.sum()
    assert (s1_composite(np.full((2, 4, 4), -99, np.float32)) == 0).any()


def test_map_colours_are_corines() -> None:
    codes = np.array([[111, 112, 211, 523, 332, 999, 0]], dtype=np.uint16)
    colours = [tuple(c) for c in map_colours(codes)[0].tolist()]
    assert colours[:4] == [(230, 0, 77), (230, 0, 77), (255, 255, 168), (230, 242, 255)]
    assert len(set(colours[4:])) == 1, "unlabelled codes and nodata share one colour"
    classes = np.array([[0, 0, 2, 18, 255, 255, 255]], dtype=np.uint8)
    assert np.array_equal(map_colours(classes), map_colours(codes))


def test_thumbnail_is_a_png_of_the_asked_size(pair: PatchPair) -> None:
    for size in (120, 48):
        picture = Image.open(io.BytesIO(thumbnail_png(rgb(pair.s2_10m), size)))
        assert (picture.format, picture.size, picture.mode) == ("PNG", (size, size), "RGB")
    exact = np.asarray(Image.open(io.BytesIO(thumbnail_png(rgb(pair.s2_10m)))))
    assert np.array_equal(exact, rgb(pair.s2_10m))


def test_figure_has_a_panel_per_picture_and_a_legend(pair: PatchPair) -> None:
    figure = plot(pair)
    assert len(figure.axes) == 3
    legend = {text.get_text() for text in figure.legends[0].get_texts()}
    assert legend - {"no class"} <= {label.split(", with ")[0] for label in pair.meta.labels}
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert Image.open(buffer).size[0] > 400
    bare = PatchPair(pair.meta, pair.s2_10m, pair.s2_20m, pair.s2_60m, pair.s1, None)
    assert len(plot(bare).axes) == 2


def test_wrong_shapes_are_refused(pair: PatchPair) -> None:
    with pytest.raises(UsageError, match="B02, B03, B04, B08"):
        rgb(pair.s2_20m)
    with pytest.raises(UsageError, match="VV, VH"):
        s1_composite(pair.s1[0])


def test_a_patch_of_a_table_is_read_and_drawn_by_its_name(tmp_path: Path) -> None:
    first, second, third = synthetic_pairs(3, seed=5)
    bare = replace(second, reference_map=None)
    table = str(tmp_path / "patches.lance")
    lance.write_dataset(pa.Table.from_batches([record_batch([first, bare, third])]), table)
    for pair in (first, bare, third):
        assert digest(read_pair(table, pair.meta.patch_id)) == digest(pair)
    assert len(plot_patch(f"{table}@1", first.meta.patch_id).axes) == 3
    assert len(plot_patch(table, bare.meta.patch_id).axes) == 2
    with pytest.raises(NotFound, match="o'clock"):
        read_pair(table, "o'clock")


def test_the_legend_has_the_colours_of_the_composite() -> None:
    colours = {name: tuple(bytes.fromhex(text[1:])) for name, text in radar_colours().items()}
    water, forest, towns = (colours[name] for name in ("water", "forest", "towns"))
    assert max(water) == water[2]  # blue
    assert max(forest) == forest[1]  # green
    assert min(towns[:2]) > 180  # yellow to white
    assert len(set(colours.values())) == len(colours)
