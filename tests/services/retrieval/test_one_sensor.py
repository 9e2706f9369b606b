"""Retrieval of patches without radar, country and labels, as a construction makes them from optical tiles alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from eoforge.client import RemoteNotFound, RetrievalClient
from eoforge.data.synthetic.archive import synthetic_pairs
from tests.services.conftest import server_for
from tests.services.retrieval.fixtures import RetrievalFixture, make_retrieval_fixture
from tests.services.support import running

ALONE, COUNT = 4, 12


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> RetrievalFixture:
    pairs = list(synthetic_pairs(COUNT, seed=7))
    meta = replace(pairs[ALONE].meta, s1_name=None, s2v1_name=None, country=None, labels=None)
    pairs[ALONE] = replace(pairs[ALONE], meta=meta, s1=None, reference_map=None)
    return make_retrieval_fixture(tmp_path_factory.mktemp("mixed"), pairs)


@pytest.fixture(scope="module")
def client(archive: RetrievalFixture) -> Iterator[RetrievalClient]:
    with running(server_for(archive)) as run, RetrievalClient(run.target, attempts=2) as made:
        yield made


def test_a_patch_without_radar_is_found_by_its_optical_image_alone(
    client: RetrievalClient, archive: RetrievalFixture
) -> None:
    alone = archive.pairs[ALONE].meta.patch_id
    ids = {pair.meta.patch_id for pair in archive.pairs}
    optical = client.search(patch_id=alone, source="s2", target="s2", k=COUNT)
    assert {hit.patch_id for hit in optical} == ids
    assert (optical[0].patch_id, optical[0].labels, optical[0].country) == (alone, (), "")
    radar = client.search(patch_id=alone, source="s2", target="s1", k=COUNT)
    assert {hit.patch_id for hit in radar} == ids - {alone}
    with pytest.raises(RemoteNotFound, match=f"no patch '{alone}' with s1"):
        client.search(patch_id=alone, source="s1", target="s2", k=1)
    sizes = {index.patches["s1"] - index.patches["s2"] for index in client.indexes()}
    assert sizes == {-1}
    assert all(hit.thumbnail_png for hit in client.search(patch_id=alone, source="s2", target="s2", thumbnails=True))


def test_a_search_by_the_open_protocol_leaves_it_out_too(archive: RetrievalFixture) -> None:
    alone = archive.pairs[ALONE].meta.patch_id
    query = {"name": "patch_id", "shape": [1], "datatype": "BYTES", "data": [alone]}
    hits = {"name": "k", "shape": [1], "datatype": "INT32", "data": [COUNT]}
    body = {"inputs": [query, hits], "parameters": {"query_modality": "s2"}}
    with running(server_for(archive)) as run:
        answer = httpx.post(f"{run.rest}/v2/models/eoforge-retrieval-search-s1/infer", json=body, timeout=60).json()
    ids = next(output["data"] for output in answer["outputs"] if output["name"] == "patch_id")
    assert sorted(ids) == sorted({pair.meta.patch_id for pair in archive.pairs} - {alone})


def test_a_patch_says_what_it_lacks(client: RetrievalClient, archive: RetrievalFixture) -> None:
    alone, other = (archive.pairs[n].meta.patch_id for n in (ALONE, 0))
    patch = client.get_patch(alone, thumbnails=True, pixels=True)
    info = patch.info
    assert (info.s1_name, info.acquired_s1, info.labels, info.country) == (None, None, (), "")
    assert info.acquired_s2 is not None
    assert (bool(patch.s1_thumbnail_png), bool(patch.s2_thumbnail_png)) == (False, True)
    assert "VV" not in patch.bands
    assert "B02" in patch.bands
    assert client.get_patch(other).info.acquired_s1 is not None
