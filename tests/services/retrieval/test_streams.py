"""Retrieval over an archive that exists only as streams: codes from the streams, pixels decoded on demand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest
from PIL import Image

from eoforge.client import RemoteNotFound, RetrievalClient
from eoforge.codec.coder import Rate
from eoforge.codec.raster import from_pair
from eoforge.data.records import PatchPair, record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.data.tables.schema import PATCHES, RASTER_COLUMNS
from eoforge.index.build import build_index
from eoforge.index.streams import compress_archive
from eoforge.methods import get_method
from eoforge.methods.codecs import coder_of
from eoforge.storage.addresses import TableRef, open_table
from services.retrieval.server import build
from services.retrieval.settings import RetrievalSettings
from tests.services.compression.fixtures import write_codec_bundle
from tests.services.support import Running, running

COUNT = 6
QUALITY = 3.0


@dataclass(frozen=True)
class StreamFixture:
    folder: Path
    pairs: tuple[PatchPair, ...]
    encoder: Any
    bundle: str

    @property
    def patches(self) -> str:
        return str(self.folder / "patches.lance")

    def serve(self, codes: str) -> Any:
        settings = RetrievalSettings(
            codes_uri=codes, port=0, rest_port=0, drain_notice_seconds=0.0, poll_seconds=3600.0
        )
        return running(lambda: build(settings))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> StreamFixture:
    """Patches whose pixels were dropped once they were compressed."""
    folder = tmp_path_factory.mktemp("streams")
    pairs = tuple(synthetic_pairs(COUNT, seed=9))
    patches = str(folder / "patches.lance")
    lance.write_dataset(record_batch(pairs), patches, schema=PATCHES)
    bundle = write_codec_bundle(str(folder / "runs"), pairs, {"uri": patches, "version": 1})
    encoder = get_method("rs_jcif").load(bundle, "cpu")
    made = StreamFixture(folder, pairs, encoder, bundle.uri)
    for _ in range(2):
        arguments = (coder_of(encoder), encoder)
        compress_archive(
            bundle.uri, TableRef(patches), str(folder / "streams.lance"), Rate(quality=QUALITY), *arguments
        )
        table = open_table(patches)
        pixels = [c for c in RASTER_COLUMNS if c in table.schema.names]
        if pixels:
            table.drop_columns(pixels)
    build_index(bundle.uri, TableRef(patches, 1), str(folder / "codes.lance"), encoder)
    return made


@pytest.fixture(scope="module")
def server(archive: StreamFixture) -> Iterator[Running]:
    with archive.serve(str(archive.folder / "streams.lance")) as run:
        yield run


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[RetrievalClient]:
    with RetrievalClient(server.target, attempts=1) as client:
        yield client


def test_patches_are_found_by_the_codes_of_their_streams(client: RetrievalClient, archive: StreamFixture) -> None:
    (index,) = client.indexes()
    assert (index.method, index.patches) == ("rs_jcif", {"s1": COUNT, "s2": COUNT})
    for pair in archive.pairs:
        hits = client.search(patch_id=pair.meta.patch_id, source="s2", target="s2", k=COUNT)
        assert pair.meta.patch_id in {h.patch_id for h in hits if h.distance == 0}
        assert [h.distance for h in hits] == sorted(h.distance for h in hits)
        by_image = client.search(bands=from_pair(pair, ("s2",)).bands, source="s2", target="s2", k=COUNT)
        assert [h.patch_id for h in by_image] == [h.patch_id for h in hits], "an image's own code is that of its stream"


def test_pixels_are_decoded_on_demand(client: RetrievalClient, archive: StreamFixture) -> None:
    pair = archive.pairs[2]
    found = client.get_patch(pair.meta.patch_id, pixels=True, thumbnails=True, reference_map=True)
    coder = coder_of(archive.encoder)
    for modality in ("s1", "s2"):
        expected = coder.decompress(coder.compress([from_pair(pair, (modality,))], Rate(quality=QUALITY)))[0]
        for band, pixels in expected.bands.items():
            assert np.abs(found.bands[band].astype(np.float64) - pixels.astype(np.float64)).max() <= 1, band
    assert found.info.patch_id == pair.meta.patch_id
    assert found.reference_map is None
    for png in (found.s1_thumbnail_png, found.s2_thumbnail_png):
        assert Image.open(BytesIO(png)).size == (120, 120)
    hits = client.search(patch_id=pair.meta.patch_id, source="s1", target="s2", k=3, thumbnails=True)
    assert all(Image.open(BytesIO(hit.thumbnail_png)).size == (120, 120) for hit in hits)


def test_without_pixels_and_streams_thumbnails_are_not_found(archive: StreamFixture) -> None:
    codes = open_table(str(archive.folder / "codes.lance"))
    codes.update_schema_metadata({"eoforge.patches_version": str(open_table(archive.patches).version)})
    with archive.serve(codes.uri) as run, RetrievalClient(run.target, attempts=1) as client:
        patch_id = archive.pairs[0].meta.patch_id
        assert client.get_patch(patch_id).info.patch_id == patch_id
        with pytest.raises(RemoteNotFound, match="neither"):
            client.get_patch(patch_id, pixels=True)
