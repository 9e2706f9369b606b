"""Streams on the patch page: learned ones are decoded by the compression service and compared with the pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import lance
import numpy as np
import pytest
from playwright.sync_api import Browser

from eoforge.codec.coder import Coder, Rate
from eoforge.data.records import PatchPair, record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.data.tables.schema import PATCHES
from eoforge.index.build import build_index
from eoforge.index.streams import compress_archive
from eoforge.methods import get_method
from eoforge.methods.codecs import coder_of
from eoforge.storage.addresses import TableRef
from services.compression.server import build as build_compression
from services.compression.settings import CompressionSettings
from services.retrieval.server import build as build_retrieval
from services.retrieval.settings import RetrievalSettings
from tests.console.browser import keep, open_page, require_accessible
from tests.console.conftest import console_of
from tests.services.compression.fixtures import write_codec_bundle
from tests.services.retrieval.fixtures import bands_of
from tests.services.support import Running, running

PEAK = {"s1": 50.0, "s2": 10_000.0}
ON_FREE_PORTS = {"port": 0, "rest_port": 0, "drain_notice_seconds": 0.0}


@dataclass(frozen=True)
class Compressed:
    """Patches with learned streams, and the services over them."""

    pairs: tuple[PatchPair, ...]
    coder: Coder
    streams: str
    bundle: str
    retrieval: Running

    def console(self, **values: Any) -> Any:
        """A console over both services."""
        given = {"retrieval_target": self.retrieval.target, "streams_uri": self.streams} | values
        return running(console_of(**given))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compressed]:
    folder = tmp_path_factory.mktemp("compressed")
    pairs = tuple(synthetic_pairs(3, seed=9))
    patches, streams, codes = (str(folder / f"{name}.lance") for name in ("patches", "streams", "codes"))
    lance.write_dataset(record_batch(pairs), patches, schema=PATCHES)
    bundle = write_codec_bundle(str(folder / "runs"), pairs, {"uri": patches, "version": 1})
    encoder = get_method("rs_jcif").load(bundle, "cpu")
    compress_archive(bundle.uri, TableRef(patches), streams, Rate(quality=3), coder_of(encoder), encoder)
    build_index(bundle.uri, TableRef(patches, 1), codes, encoder)
    with running(lambda: build_retrieval(RetrievalSettings(codes_uri=codes, **ON_FREE_PORTS))) as retrieval:
        yield Compressed(pairs, coder_of(encoder), streams, bundle.uri, retrieval)


@pytest.fixture(scope="module")
def compression(compressed: Compressed) -> Iterator[Running]:
    settings = CompressionSettings(bundle_uris=compressed.bundle, **ON_FREE_PORTS)
    with running(lambda: build_compression(settings)) as run:
        yield run


def rows_of(page: httpx.Response) -> list[list[str]]:
    """Texts of the cells of the table of streams."""
    body = page.text.split("Streams</h2>")[1].split("<tbody>")[1].split("</tbody>")[0]
    return [
        [cell.partition(">")[2].split("</td>")[0] for cell in row.split("<td")[1:]] for row in body.split("<tr>")[1:]
    ]


def test_learned_streams_have_their_size_rate_and_quality(compressed: Compressed, compression: Running) -> None:
    """Against the definitions, written out: PSNR = 20 log10(peak / RMSE), bits per pixel of the 10 m grid."""
    pair = compressed.pairs[0]
    with compressed.console(compression_target=compression.target) as run:
        shown = rows_of(httpx.get(f"{run.rest}/patch/{pair.meta.patch_id}", timeout=60))
    where = f"patch_id = '{pair.meta.patch_id}'"
    held = {r["modality"]: r["stream"] for r in lance.dataset(compressed.streams).to_table(filter=where).to_pylist()}
    assert [row[0] for row in shown] == ["radar (Sentinel-1)", "optical (Sentinel-2)"]
    for row, sensor in zip(shown, ("s1", "s2"), strict=True):
        (decoded,) = compressed.coder.decompress([held[sensor]])
        before = bands_of(pair, sensor)
        apart = np.concatenate(
            [(before[b].astype(float) - decoded.bands[b].astype(float)).ravel() for b in decoded.bands]
        )
        psnr = 20 * np.log10(PEAK[sensor] / np.sqrt(np.mean(apart**2)))
        assert row[1].startswith("learned")
        assert row[2] == "quality 3"
        assert row[3] == f"{len(held[sensor]):,}"
        assert row[5] == f"{8 * len(held[sensor]) / 120**2:.2f}"
        assert row[6] == f"{np.abs(apart).max():g}"
        assert row[7] == f"{psnr:.2f}"


def test_a_service_without_the_codec_or_without_life_leaves_the_page_and_says_why(compressed: Compressed) -> None:
    patch = f"/patch/{compressed.pairs[0].meta.patch_id}"
    with running(lambda: build_compression(CompressionSettings(**ON_FREE_PORTS))) as empty:
        consoles = (
            ({"compression_target": empty.target}, "its codec is not served"),
            ({"compression_target": "127.0.0.1:9", "service_seconds": 1.0}, "could not decode it at the moment"),
            ({}, "was given no compression service"),
        )
        for values, words in consoles:
            with compressed.console(**values) as run:
                page = httpx.get(run.rest + patch, timeout=60)
            assert page.status_code == 200
            assert [row[7] for row in rows_of(page)] == ["–", "–"]
            assert words in page.text
            assert "127.0.0.1" not in page.text


def test_the_table_in_the_browser(browser: Browser, compressed: Compressed, compression: Running) -> None:
    with (
        compressed.console(compression_target=compression.target) as run,
        open_page(browser, run.rest, color_scheme="dark") as page,
    ):
        page.goto(f"/patch/{compressed.pairs[1].meta.patch_id}")
        page.get_by_role("heading", name="Streams").scroll_into_view_if_needed()
        require_accessible(page)
        keep(page, "patch-streams")
