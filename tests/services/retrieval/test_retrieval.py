"""Typed API over a real server: four kinds of query, both directions, filters, pages, streams, thumbnails."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.api.retrieval.v1 import retrieval_pb2_grpc
from eoforge.client import RemoteError, RemoteNotFound, RemoteRefused, RetrievalClient, SearchFilter
from eoforge.client.messages import band_image
from eoforge.errors import NotFound, UsageError
from eoforge.index.catalog import IndexSnapshot
from eoforge.storage.addresses import TableRef
from services.retrieval.batching import METRICS
from tests.services.conftest import server_for
from tests.services.retrieval.fixtures import BITS, FIRST, RetrievalFixture, bands_of, write_tiff
from tests.services.support import Running, details, running, until

DIRECTIONS = [("s1", "s1"), ("s1", "s2"), ("s2", "s1"), ("s2", "s2")]
K = 7


@pytest.fixture(scope="module")
def server(archive: RetrievalFixture) -> Iterator[Running]:
    with running(server_for(archive, max_images=4)) as run:
        yield run


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[RetrievalClient]:
    with RetrievalClient(server.target, attempts=1) as client:
        yield client


@pytest.fixture(scope="module")
def stub(server: Running) -> Iterator[Any]:
    with grpc.insecure_channel(server.target) as channel:
        yield retrieval_pb2_grpc.RetrievalServiceStub(channel)


@pytest.fixture(scope="module")
def snapshot(archive: RetrievalFixture) -> IndexSnapshot:
    return IndexSnapshot.open(TableRef(archive.codes))


def direct(snapshot: IndexSnapshot, code: Any, target: str, k: int, wanted: SearchFilter | None = None) -> Any:
    """The bare index call, as (distance, patch id)."""
    distances, rows, *_ = snapshot.search(target, code[None], k, wanted)
    ids = snapshot.metadata(rows[0]).column("patch_id").to_pylist()
    return list(zip(distances[0].tolist(), ids, strict=True))


def geotiff(archive: RetrievalFixture, patch_id: str, modality: str, *, names: bool = True) -> bytes:
    """All bands of one sensor in one file, 20 m and 60 m bands resampled to 10 m as users have them."""
    bands = bands_of(archive.pair(patch_id), modality)
    full = {n: np.kron(x, np.ones((120 // len(x),) * 2, dtype=x.dtype)) for n, x in bands.items()}
    return write_tiff(full, names=names)


@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
def test_four_kinds_of_query_equal_the_index_call(
    client: RetrievalClient, snapshot: IndexSnapshot, archive: RetrievalFixture, source: str, target: str
) -> None:
    patch_id = archive.pairs[5].meta.patch_id
    code = snapshot.code_of(patch_id, source)
    expected = direct(snapshot, code, target, K)
    ways: dict[str, dict[str, Any]] = {
        "patch id": {"patch_id": patch_id},
        "bands": {"bands": bands_of(archive.pair(patch_id), source)},
        "geotiff": {"geotiff": geotiff(archive, patch_id, source)},
        "code": {"code": code.tobytes()},
    }
    for name, query in ways.items():
        hits = client.search(**query, source=source, target=target, k=K)
        assert [(h.distance, h.patch_id) for h in hits] == expected, name
        assert {h.modality for h in hits} == {target}
    assert (expected[0] == (0, patch_id)) == (source == target)


def test_one_file_per_band_is_the_official_layout(client: RetrievalClient, archive: RetrievalFixture) -> None:
    pair = archive.pairs[2]
    files = [write_tiff({name: x}) for name, x in bands_of(pair, "s2").items()]
    hits = client.search(geotiff=files, source="s2", target="s2", k=1)
    assert (hits[0].patch_id, hits[0].distance) == (pair.meta.patch_id, 0)


def test_hits_have_the_metadata_of_the_archive(
    client: RetrievalClient, archive: RetrievalFixture, snapshot: IndexSnapshot
) -> None:
    for hit in client.search(patch_id=archive.pairs[0].meta.patch_id, source="s1", target="s2", k=FIRST):
        meta = archive.pair(hit.patch_id).meta
        row = snapshot.metadata(np.array([snapshot.row_of(hit.patch_id, "s2")])).to_pylist()[0]
        assert (hit.labels, hit.country, hit.split) == (meta.labels, meta.country, meta.split)
        assert (hit.acquired, hit.epsg) == (row["acquired_s2"], row["epsg"])
        assert hit.footprint == (row["lon_min"], row["lat_min"], row["lon_max"], row["lat_max"])
        assert hit.thumbnail_png == b""


def test_filters_equal_those_of_the_index(
    client: RetrievalClient, archive: RetrievalFixture, snapshot: IndexSnapshot
) -> None:
    rows = snapshot.metadata().to_pylist()
    some = rows[3]
    middle = sorted(r["acquired_s2"] for r in rows)[len(rows) // 2]
    box = (some["lon_min"], some["lat_min"], some["lon_max"], some["lat_max"])
    cases: list[dict[str, Any]] = [
        {},
        {"countries": (some["country"],)},
        {"splits": ("test", "train")},
        {"labels_any": tuple(some["labels"])},
        {"labels_all": tuple(some["labels"][:2])},
        {"bbox": box},
        {"acquired_from": middle},
        {"acquired_until": middle},
        {"acquired_from": middle, "acquired_until": middle + timedelta(days=30)},
        {"exclude_snow": True},
        {"exclude_cloud": True},
        {"splits": ("train",), "labels_any": tuple(some["labels"]), "exclude_cloud": True},
        {"acquired_until": datetime(1999, 1, 1, tzinfo=UTC)},
    ]
    code = snapshot.code_of(some["patch_id"], "s1")
    sizes = set()
    for case in cases:
        expected = direct(snapshot, code, "s2", FIRST, SearchFilter(**case))
        found = client.search(code=code.tobytes(), target="s2", k=FIRST, filter=SearchFilter(**case))
        assert [(h.distance, h.patch_id) for h in found] == expected, case
        sizes.add(len(found))
    assert 0 in sizes
    assert FIRST in sizes
    assert len(sizes) > 3, "the cases restrict nothing: the test would pass without filters"


def test_pages_form_one_ranking(stub: Any, archive: RetrievalFixture, snapshot: IndexSnapshot) -> None:
    code = snapshot.code_of(archive.pairs[1].meta.patch_id, "s1")
    request = pb.SearchRequest(code=code.tobytes(), target_modality=pb.MODALITY_S2, page_size=9)
    found: list[tuple[int, str]] = []
    pages = 0
    while True:
        response = stub.Search(request, timeout=60)
        found += [(h.distance, h.patch.patch_id) for h in response.hits]
        assert response.candidates == FIRST
        assert response.query_code == code.tobytes()
        pages += 1
        if not response.next_page_token:
            break
        request.page_token = response.next_page_token
    assert pages == 5
    assert found == direct(snapshot, code, "s2", FIRST)


def test_tokens_are_for_their_request_only(stub: Any, snapshot: IndexSnapshot) -> None:
    first = pb.SearchRequest(code=bytes(BITS // 8), target_modality=pb.MODALITY_S2, page_size=5)
    token = stub.Search(first, timeout=60).next_page_token
    for change in (
        {"code": b"\xff" * (BITS // 8)},
        {"target_modality": pb.MODALITY_S1},
        {"filter": pb.Filter(exclude_snow=True)},
        {"page_token": "bm9uc2Vuc2U="},
        {"page_token": "ü"},
    ):
        request = pb.SearchRequest()
        request.CopyFrom(first)
        request.page_token = token
        request.MergeFrom(pb.SearchRequest(**change))
        with pytest.raises(grpc.RpcError) as caught:
            stub.Search(request, timeout=60)
        assert details(caught.value)["reason"] == "INVALID_ARGUMENT", change


def test_a_stream_answers_in_order_and_survives_a_bad_request(
    client: RetrievalClient, archive: RetrievalFixture, snapshot: IndexSnapshot
) -> None:
    ids = [p.meta.patch_id for p in archive.pairs[:FIRST]]
    ids[3] = "no such patch"
    answers = list(client.search_many(ids, source="s1", target="s2", k=3, timeout=60))
    assert [i for i, _ in answers] == ids
    for patch_id, answer in answers:
        if patch_id == "no such patch":
            assert isinstance(answer, RemoteError)
            assert (answer.code, answer.remote_reason) == ("NOT_FOUND", "NOT_FOUND")
        else:
            assert not isinstance(answer, RemoteError)
            expected = direct(snapshot, snapshot.code_of(patch_id, "s1"), "s2", 3)
            assert [(h.distance, h.patch_id) for h in answer] == expected


def test_streamed_images_share_batches(stub: Any, archive: RetrievalFixture) -> None:
    images = [band_image(bands_of(p, "s1"), "s1") for p in archive.pairs[:12]]
    requests = [
        pb.SearchStreamRequest(search=pb.SearchRequest(bands=i, target_modality=2, page_size=1)) for i in images
    ]
    with archive.encoder.held():
        streaming = stub.SearchStream(iter(requests), timeout=60)
        until(lambda: sum(archive.encoder.batches) + METRICS.queued._value.get() == 12)
    answers = list(streaming)
    assert len(answers) == 12
    assert all(a.result.hits for a in answers)
    assert max(archive.encoder.batches) > 1
    assert sum(archive.encoder.batches) == 12


def test_encode_gives_the_codes_of_the_index(
    client: RetrievalClient, archive: RetrievalFixture, snapshot: IndexSnapshot
) -> None:
    for modality in ("s1", "s2"):
        pairs = archive.pairs[:4]
        encoded = client.encode([bands_of(p, modality) for p in pairs], modality)
        for pair, one in zip(pairs, encoded, strict=True):
            assert one.code == snapshot.code_of(pair.meta.patch_id, modality).tobytes()
            assert one.embedding.shape == (client.indexes()[0].embedding_dim,)


def test_get_patch_returns_the_archive_s_pixels(client: RetrievalClient, archive: RetrievalFixture) -> None:
    pair = next(p for p in archive.pairs[:FIRST] if p.reference_map is not None)
    patch = client.get_patch(pair.meta.patch_id, thumbnails=True, pixels=True, reference_map=True)
    for modality in ("s1", "s2"):
        for name, samples in bands_of(pair, modality).items():
            np.testing.assert_array_equal(patch.bands[name], samples)
            assert patch.bands[name].dtype == samples.dtype
    assert len(patch.bands) == 14
    assert patch.reference_map is not None
    np.testing.assert_array_equal(patch.reference_map, pair.reference_map)
    for png in (patch.s1_thumbnail_png, patch.s2_thumbnail_png):
        picture = Image.open(BytesIO(png))
        assert (picture.format, picture.size) == ("PNG", (120, 120))
    plain = client.get_patch(pair.meta.patch_id)
    assert (plain.bands, plain.reference_map, plain.s1_thumbnail_png) == ({}, None, b"")
    assert plain.info.s1_name == pair.meta.s1_name


def test_thumbnails_of_hits_are_their_own(client: RetrievalClient, archive: RetrievalFixture) -> None:
    hits = client.search(patch_id=archive.pairs[4].meta.patch_id, source="s2", target="s1", k=5, thumbnails=True)
    for hit in hits:
        assert hit.thumbnail_png == client.get_patch(hit.patch_id, thumbnails=True).s1_thumbnail_png


def test_codes_of_hits_are_those_of_the_index(client: RetrievalClient, snapshot: IndexSnapshot) -> None:
    name = snapshot.metadata(np.array([3]))["patch_id"][0].as_py()
    hits = client.search(patch_id=name, source="s2", target="s1", k=5, codes=True)
    assert [hit.code for hit in hits] == [snapshot.code_of(hit.patch_id, "s1").tobytes() for hit in hits]
    assert [hit.code for hit in client.search(patch_id=name, source="s2", target="s1", k=2)] == [b"", b""]


def test_indexes_describe_the_served_index(
    client: RetrievalClient, archive: RetrievalFixture, snapshot: IndexSnapshot
) -> None:
    (index,) = client.indexes()
    assert (index.version, index.bits, index.bundle_id) == (snapshot.version, BITS, archive.bundle.id)
    assert index.patches == {"s1": FIRST, "s2": FIRST}
    assert index.bands["s1"] == ("VV", "VH")
    assert index.patches_version == snapshot.info.patches.version


def test_the_client_raises_the_kind_of_error(client: RetrievalClient, archive: RetrievalFixture) -> None:
    with pytest.raises(RemoteNotFound, match="no such patch") as caught:
        client.get_patch("no such patch")
    assert isinstance(caught.value, NotFound)
    with pytest.raises(RemoteRefused, match="4 images"):
        client.encode([bands_of(archive.pairs[0], "s1")] * 5, "s1")
    with pytest.raises(UsageError, match="exactly one"):
        client.search(patch_id="x", code=b"x", source="s1", target="s2")
    with pytest.raises(UsageError, match="float64"):
        client.encode([{"B02": np.zeros((120, 120))}], "s2")
    with pytest.raises(UsageError, match="time zone"):
        SearchFilter(acquired_from=datetime(2018, 1, 1))


def test_an_unreachable_server_is_an_error() -> None:
    with RetrievalClient("127.0.0.1:1", attempts=2, timeout=60) as client, pytest.raises(RemoteError) as caught:
        client.indexes()
    assert caught.value.code == "UNAVAILABLE"
    assert "127.0.0.1:1" in str(caught.value)
