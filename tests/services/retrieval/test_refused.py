"""Refusals of a search: each fault once over a real server, with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.api.retrieval.v1 import retrieval_pb2_grpc
from tests.services.conftest import server_for
from tests.services.retrieval.fixtures import RetrievalFixture, write_tiff
from tests.services.support import details, running


@pytest.fixture(scope="module")
def stub(archive: RetrievalFixture) -> Iterator[Any]:
    limits = {"max_page_size": 50, "max_image_bytes": 1 << 20, "max_thumbnails": 20}
    with running(server_for(archive, **limits)) as run, grpc.insecure_channel(run.target) as channel:
        yield retrieval_pb2_grpc.RetrievalServiceStub(channel)


def _band(name: str, side: int = 120, kind: str = "u2", fill: int = 1) -> pb.Band:
    return pb.Band(name=name, height=side, width=side, samples=np.full((side, side), fill, kind).tobytes())


def _s1(**change: Any) -> pb.BandImage:
    bands = {n: _band(n, kind="f4", fill=-10) for n in ("VV", "VH")} | change
    return pb.BandImage(modality=pb.MODALITY_S1, bands=[b for b in bands.values() if b is not None])


def _tiffs(*contents: bytes, names: tuple[str, ...] = ()) -> pb.GeoTiffImage:
    return pb.GeoTiffImage(modality=pb.MODALITY_S1, files=[pb.GeoTiffFile(content=c, bands=names) for c in contents])


RADAR = np.full((120, 120), -10, np.float32)
NAN = pb.Band(name="VV", height=120, width=120, samples=np.full((120, 120), np.nan, "f4").tobytes())
SEARCH = {"target_modality": pb.MODALITY_S2}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no query": ({}, "INVALID_ARGUMENT"),
    "no target": ({"patch_id": "x", "target_modality": 0}, "INVALID_ARGUMENT"),
    "unknown target": ({"patch_id": "x", "target_modality": 9}, "INVALID_ARGUMENT"),
    "no source": ({"patch_id": "x"}, "INVALID_ARGUMENT"),
    "unknown patch": ({"patch_id": "x", "query_modality": 1}, "NOT_FOUND"),
    "endless patch id": ({"patch_id": "x" * 1000, "query_modality": 1}, "LIMIT_EXCEEDED"),
    "short code": ({"code": b"abc"}, "INVALID_ARGUMENT"),
    "page too large": ({"code": bytes(8), "page_size": 51}, "LIMIT_EXCEEDED"),
    "too many pictures": ({"code": bytes(8), "page_size": 21, "include_thumbnails": True}, "LIMIT_EXCEEDED"),
    "unknown label": ({"code": bytes(8), "filter": pb.Filter(labels_any=["Forest"])}, "INVALID_ARGUMENT"),
    "impossible box": (
        {"code": bytes(8), "filter": pb.Filter(bounds=pb.BoundingBox(lat_min=95, lat_max=99))},
        "INVALID_ARGUMENT",
    ),
    "endless filter": ({"code": bytes(8), "filter": pb.Filter(countries=["x"] * 300)}, "LIMIT_EXCEEDED"),
    "missing band": ({"bands": _s1(VH=None)}, "INVALID_ARGUMENT"),
    "band twice": ({"bands": _s1(X=_band("VV", kind="f4"))}, "INVALID_ARGUMENT"),
    "band of the other sensor": ({"bands": _s1(X=_band("B02"))}, "INVALID_ARGUMENT"),
    "wrong size": ({"bands": _s1(VV=_band("VV", 60, "f4"))}, "INVALID_ARGUMENT"),
    "too few samples": ({"bands": _s1(VV=_band("VV", kind="u2"))}, "INVALID_ARGUMENT"),
    "claims to be huge": ({"bands": _s1(VV=pb.Band(name="VV", height=1 << 31, width=1 << 31))}, "INVALID_ARGUMENT"),
    "NaN": ({"bands": _s1(VV=NAN)}, "DATA_REFUSED"),
    "no backscatter": ({"bands": _s1(VV=_band("VV", kind="f4", fill=10**38))}, "DATA_REFUSED"),
    "linear backscatter": ({"bands": _s1(VV=_band("VV", kind="f4", fill=1))}, "DATA_REFUSED"),
    "no modality": ({"bands": pb.BandImage()}, "INVALID_ARGUMENT"),
    "contradicting modality": ({"bands": _s1(), "query_modality": 2}, "INVALID_ARGUMENT"),
    "too many bands": (
        {"bands": pb.BandImage(modality=1, bands=[_band("VV", kind="f4")] * 17)},
        "LIMIT_EXCEEDED",
    ),
    "not a tiff": ({"geotiff": _tiffs(b"GIF89a nonsense")}, "DATA_REFUSED"),
    "empty tiff": ({"geotiff": _tiffs(b"")}, "DATA_REFUSED"),
    "unnamed bands": (
        {"geotiff": _tiffs(write_tiff({"VV": RADAR, "VH": RADAR}, names=False))},
        "INVALID_ARGUMENT",
    ),
    "truncated tiff": ({"geotiff": _tiffs(write_tiff({"VV": RADAR, "VH": RADAR})[:-50_000])}, "DATA_REFUSED"),
    "tiff of another type": (
        {"geotiff": _tiffs(write_tiff({"VV": RADAR.astype("f8"), "VH": RADAR.astype("f8")}))},
        "INVALID_ARGUMENT",
    ),
    "tiff of another size": ({"geotiff": _tiffs(write_tiff({"VV": np.zeros((300, 300), "f4")}))}, "INVALID_ARGUMENT"),
    "tiff with giant tiles": (
        {
            "geotiff": _tiffs(
                write_tiff({"VV": RADAR, "VH": RADAR}, tiled=True, blockxsize=2048, blockysize=2048, compress="deflate")
            )
        },
        "LIMIT_EXCEEDED",
    ),
    "too many bytes": ({"geotiff": _tiffs(bytes((1 << 20) + 1))}, "LIMIT_EXCEEDED"),
    "too many files": ({"geotiff": _tiffs(*[b"x"] * 17)}, "LIMIT_EXCEEDED"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_and_their_reasons(stub: Any, name: str) -> None:
    fields, reason = REFUSED[name]
    with pytest.raises(grpc.RpcError) as caught:
        stub.Search(pb.SearchRequest(**(SEARCH | fields)), timeout=60)
    assert details(caught.value)["reason"] == reason, caught.value.details()
    assert ".lance" not in caught.value.details()
