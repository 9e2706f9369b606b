"""`eoforge search` against a running service: the filters of the service, one line of JSON, hints for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from eoforge.cli import main
from eoforge.cli.export import export_hits
from eoforge.cli.output import configure
from eoforge.client import RetrievalClient
from eoforge.errors import UsageError
from tests.services.conftest import server_for
from tests.services.retrieval.fixtures import FIRST, RetrievalFixture, bands_of, write_tiff
from tests.services.support import Running, running


@pytest.fixture(scope="module")
def server(archive: RetrievalFixture) -> Iterator[Running]:
    with running(server_for(archive)) as run:
        yield run


def found(capsys: pytest.CaptureFixture[str], server: Running, *args: str) -> list[dict[str, Any]]:
    assert main(["search", "--server", server.target, "-k", "1000", "--json", *args]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    return list(json.loads(line))


def test_times_limit_the_hits(server: Running, archive: RetrievalFixture, capsys: pytest.CaptureFixture[str]) -> None:
    patch = ("--patch-id", archive.pairs[0].meta.patch_id)
    everything = found(capsys, server, *patch)
    assert len(everything) == FIRST
    times = sorted(datetime.fromisoformat(hit["acquired"]) for hit in everything)
    middle = times[FIRST // 2]
    text = middle.strftime("%Y-%m-%dT%H:%M:%S")
    later, earlier = found(capsys, server, *patch, "--since", text), found(capsys, server, *patch, "--until", text)
    assert len(later) == sum(time >= middle for time in times)
    assert len(earlier) == sum(time < middle for time in times)
    day = datetime(middle.year, middle.month, middle.day, tzinfo=UTC)
    assert len(found(capsys, server, *patch, "--since", f"{day:%Y-%m-%d}")) == sum(time >= day for time in times)


def test_filters_without_a_match_print_a_hint(
    server: Running, archive: RetrievalFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    query = ("--patch-id", archive.pairs[0].meta.patch_id, "--until", "1999-01-01")
    assert found(capsys, server, *query) == []
    assert main(["search", "--server", server.target, *query]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "no patch passes these filters" in printed.err


def test_a_mistyped_split_or_country_is_refused_with_the_nearest(
    server: Running, archive: RetrievalFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--patch-id", archive.pairs[0].meta.patch_id, "--json"]
    for option, mistyped, meant in (("--split", "val", "validation"), ("--country", "Finnland", "Finland")):
        assert main(["search", "--server", server.target, *args, option, mistyped]) == 2
        message = json.loads(capsys.readouterr().err.splitlines()[-1])["error"]["message"]
        assert f"{mistyped!r}; did you mean {meant}" in message


@pytest.mark.parametrize("modality", ["s1", "s2"])
def test_an_image_in_a_folder_of_single_bands_finds_itself(
    server: Running, archive: RetrievalFixture, tmp_path: Path, capsys: pytest.CaptureFixture[str], modality: str
) -> None:
    pair = archive.pairs[3]
    for name, pixels in bands_of(pair, modality).items():
        (tmp_path / f"mine_{name.replace('B0', 'b')}.tif").write_bytes(write_tiff({name: pixels}, names=False))
    hits = found(capsys, server, "--image", str(tmp_path), "--to", modality)
    assert {hit["patch_id"]: hit["distance"] for hit in hits}[pair.meta.patch_id] == 0
    assert "window" not in hits[0]


def test_a_larger_image_is_asked_per_window(
    server: Running, archive: RetrievalFixture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left, right = archive.pairs[1], archive.pairs[2]
    names = bands_of(left, "s1")
    wide = {n: np.hstack([bands_of(left, "s1")[n], bands_of(right, "s1")[n]]) for n in names}
    path = tmp_path / "wide.tif"
    path.write_bytes(write_tiff(wide, names=False))
    args = ["search", "--server", server.target, "--image", str(path), "--bands", "VV,VH", "--to", "s1", "-k", "1"]
    assert main([*args, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["window"], row["patch_id"]) for row in rows] == [
        ([0, 0], left.meta.patch_id),
        ([0, 120], right.meta.patch_id),
    ]
    assert main(args) == 0
    assert "cut into 2 windows" in capsys.readouterr().err
    out = tmp_path / "hits.parquet"
    assert main([*args, "--export", str(out)]) == 0
    exported = pq.read_table(out)
    assert (exported["window"].to_pylist(), exported["rank"].to_pylist()) == ([[0, 0], [0, 120]], [1, 1])


def test_an_image_of_the_other_sensor_is_named(
    server: Running, archive: RetrievalFixture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "radar.tif"
    path.write_bytes(write_tiff(dict(bands_of(archive.pairs[0], "s1"))))
    args = ["search", "--server", server.target, "--image", str(path), "--json"]
    assert main([*args, "--from", "s2"]) == 3
    assert "is of Sentinel-1 (bands VV, VH)" in json.loads(capsys.readouterr().err.splitlines()[-1])["error"]["message"]


def test_the_request_names_the_bands_of_its_files(server: Running, archive: RetrievalFixture) -> None:
    pair = archive.pairs[0]
    bands = dict(bands_of(pair, "s1"))
    content = write_tiff(bands, names=False)
    with RetrievalClient(server.target) as client:
        with pytest.raises(UsageError, match="names"):
            client.search(geotiff=content, source="s1", target="s1", k=1)
        (hit,) = client.search(geotiff=content, geotiff_bands=[["vv", "vh"]], source="s1", target="s1", k=1)
        assert (hit.patch_id, hit.distance) == (pair.meta.patch_id, 0)
        with pytest.raises(UsageError, match="the image is of s1"):
            client.search(geotiff=write_tiff(bands), source="s2", target="s1", k=1)


def test_hits_whose_owner_withholds_the_footprint_are_counted_and_not_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"modality": "s2", "country": "", "split": "", "labels": (), "acquired": None, "epsg": 0}
    shown = known | {"patch_id": "b", "distance": 2, "owner": "north", "footprint": (20.0, 60.0, 20.1, 60.1)}
    hidden = known | {"patch_id": "a", "distance": 1, "owner": "west", "footprint": None}
    configure(as_json=False)
    export_hits([hidden, shown], str(tmp_path / "hits.parquet"))
    table = pq.read_table(tmp_path / "hits.parquet")
    assert (table["rank"].to_pylist(), table["owner"].to_pylist()) == ([2], ["north"])
    assert "1 of 2 hits are not exported" in capsys.readouterr().err


def test_hits_are_exported_for_maps(
    server: Running, archive: RetrievalFixture, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import geopandas

    out = tmp_path / "hits.parquet"
    hits = found(capsys, server, "--patch-id", archive.pairs[0].meta.patch_id, "--export", str(out))
    frame = geopandas.read_parquet(out)
    assert frame["patch_id"].tolist() == [hit["patch_id"] for hit in hits]
    assert frame["distance"].tolist() == [hit["distance"] for hit in hits]
    assert frame["rank"].tolist() == list(range(1, len(hits) + 1))
    assert [list(map(float, box.bounds)) for box in frame.geometry] == [hit["footprint"] for hit in hits]
    assert [list(labels) for labels in frame["labels"]] == [hit["labels"] for hit in hits]
