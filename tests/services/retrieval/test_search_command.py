"""`eoforge search` against a running service: the filters of the service, one line of JSON, hints for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from eoforge.cli import main
from tests.services.conftest import server_for
from tests.services.retrieval.fixtures import FIRST, RetrievalFixture
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
