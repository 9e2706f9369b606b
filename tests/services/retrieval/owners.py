"""Archives of several owners: one bundle, one table each, and the same patches in one merged index."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import lance

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.api.retrieval.v1 import retrieval_pb2_grpc
from eoforge.bundle import Bundle
from eoforge.data.records import PatchPair, record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.data.tables.schema import PATCHES
from eoforge.index.build import build_index
from eoforge.storage.addresses import TableRef
from services.retrieval.owners import Upstream
from services.retrieval.upstream import SEARCH
from tests.services.conftest import server_for
from tests.services.retrieval.fixtures import PROJECTION, RetrievalFixture, make_retrieval_fixture
from tests.services.support import Pki, running

EACH = 8
LONG_S = 30.0
"""Time that nothing here takes unless it hangs."""
EVERYTHING = {"fields": "all", "filters": "all", "max_hits": 1000, "quota_per_second": None}
"""Rights of a partner that may have all."""
OWNERS = ("north", "south", "west")
CALLER = "berlin.silo"
"""Name in the client certificates of the tests."""


@dataclass(frozen=True)
class Owners:
    """Archives by owner, their union, and an archive with another bundle."""

    by_name: dict[str, RetrievalFixture]
    merged: RetrievalFixture
    other_bundle: RetrievalFixture

    def owner_of(self, patch_id: str) -> str:
        return next(
            name for name, archive in self.by_name.items() if patch_id in {p.meta.patch_id for p in archive.pairs}
        )


def make_owners(folder: Path) -> Owners:
    """Archives of three owners; each holds one image that all of them hold, under an id of its own."""
    pairs = list(synthetic_pairs(len(OWNERS) * EACH, seed=7))
    for number in range(1, len(OWNERS)):  # equal codes at three owners: ties that only (owner, patch id) orders
        meta = pairs[number * EACH].meta
        pairs[number * EACH] = replace(pairs[0], meta=meta)
    for name in ("all", "other", *OWNERS):
        (folder / name).mkdir()
    merged = make_retrieval_fixture(folder / "all", pairs)
    by_name = {
        name: _archive(folder / name, pairs[number * EACH : (number + 1) * EACH], merged.bundle)
        for number, name in enumerate(OWNERS)
    }
    other = make_retrieval_fixture(folder / "other", pairs[:EACH])
    return Owners(by_name, merged, other)


def _archive(folder: Path, pairs: Sequence[PatchPair], bundle: Bundle) -> RetrievalFixture:
    patches, codes = str(folder / "patches.lance"), str(folder / "codes.lance")
    table = lance.write_dataset(record_batch(pairs), patches, schema=PATCHES)
    build_index(bundle.uri, TableRef(patches, table.version), codes, PROJECTION.encoder)
    return RetrievalFixture(patches, codes, bundle, tuple(pairs), PROJECTION.encoder)


def plain(hits: Sequence[pb.Hit]) -> list[bytes]:
    """Hits without what a search across archives adds, as bytes."""
    found = []
    for hit in hits:
        copy = pb.Hit()
        copy.CopyFrom(hit)
        copy.ClearField("owner")
        copy.ClearField("owner_address")
        found.append(copy.SerializeToString(deterministic=True))
    return found


@contextmanager
def pretender(answer: Callable[[pb.SearchRequest, grpc.ServicerContext], Any], *, many: bool = False) -> Iterator[str]:
    """Service that answers Search with whatever ``answer`` makes, bytes too; yields its address.

    Args:
        answer: Maker of the answer; with ``many``, of a stream of answers.
        many: Whether it answers with a stream, which a client of Search does not expect.
    """

    def serialised(message: Any) -> bytes:
        return message if isinstance(message, bytes) else bytes(message.SerializeToString())

    made = grpc.unary_stream_rpc_method_handler if many else grpc.unary_unary_rpc_method_handler
    handler = made(answer, pb.SearchRequest.FromString, serialised)
    service, _, method = SEARCH[1:].partition("/")
    options = [("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
    server = grpc.server(futures.ThreadPoolExecutor(8), options=options)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def good_answer(request: pb.SearchRequest, owner: str) -> pb.SearchResponse:
    """Answer with two hits that nothing is wrong with."""
    response = pb.SearchResponse(
        query_code=request.code, bundle_id=request.bundle_id, owner=owner, candidates=2, distance_step=1
    )
    response.exact, response.recall = request.min_recall == 1, request.min_recall
    for distance, name in ((3, "patch-b"), (5, "patch-a")):
        patch = pb.PatchMetadata(patch_id=name, country="Finland", split="train", labels=["Pastures"])
        patch.footprint.CopyFrom(pb.BoundingBox(lon_min=20, lon_max=21, lat_min=60, lat_max=61))
        response.hits.add(patch=patch, modality=request.target_modality, distance=distance, owner=owner)
    return response


def upstream(owner: str, address: str, pki: Pki | None = None, **values: Any) -> Upstream:
    files = {"ca_file": "ca.pem", "cert_file": "client.pem", "key_file": "client.key"} if pki else {}
    given = {key: pki.path(name) for key, name in files.items()} if pki else {}
    return Upstream(**{"owner": owner, "address": address, "deadline_seconds": LONG_S, **given, **values})


def query(owners: Owners, source: str, target: str, **values: Any) -> pb.SearchRequest:
    """Search of the south by one of its patches."""
    kinds = {"s1": pb.MODALITY_S1, "s2": pb.MODALITY_S2}
    own = owners.by_name["south"].pairs[0].meta.patch_id
    return pb.SearchRequest(patch_id=own, query_modality=kinds[source], target_modality=kinds[target], **values)


@contextmanager
def hub(owners: Owners, *asked: Upstream, **values: Any) -> Iterator[Any]:
    """Stub of a service of the south, without TLS, that asks these."""
    made = server_for(owners.by_name["south"], owner="south", upstreams=asked, **values)
    with running(made) as run, grpc.insecure_channel(run.target) as channel:
        yield retrieval_pb2_grpc.RetrievalServiceStub(channel)


def across(stub: Any, owners: Owners, **values: Any) -> tuple[pb.SearchResponse, dict[str, tuple[str, str]]]:
    """Answer, and status and message by owner."""
    response = stub.Search(query(owners, "s1", "s2", across=True, **values), timeout=LONG_S)
    said = {o.owner: (pb.OwnerStatus.Name(o.status).removeprefix("OWNER_STATUS_"), o.message) for o in response.owners}
    return response, said
