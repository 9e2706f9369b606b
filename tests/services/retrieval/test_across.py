"""Search across the archives of three owners, each with its own certificates: merged hits, and owners that fail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.api.retrieval.v1 import retrieval_pb2_grpc
from eoforge.cli import main
from eoforge.client import RemoteError, RetrievalClient, SearchFilter
from eoforge.errors import UsageError
from services.retrieval.owners import Partner
from tests.services.conftest import server_for, settings_for
from tests.services.retrieval.owners import (
    CALLER,
    EACH,
    EVERYTHING,
    LONG_S,
    OWNERS,
    Owners,
    across,
    hub,
    make_owners,
    plain,
    query,
    upstream,
)
from tests.services.support import Pki, Running, details, make_pki, running

ALL = EACH * len(OWNERS)
DIRECTIONS = [("s1", "s2"), ("s2", "s2")]


@pytest.fixture(scope="module")
def owners(tmp_path_factory: pytest.TempPathFactory) -> Owners:
    return make_owners(tmp_path_factory.mktemp("owners"))


@pytest.fixture(scope="module")
def pkis(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pki]:
    """An authority of certificates for each owner."""
    return {name: make_pki(tmp_path_factory.mktemp(f"pki-{name}")) for name in OWNERS}


def served_with(pki: Pki, owner: str, **values: Any) -> dict[str, Any]:
    """Settings of an owner with mutual TLS."""
    files = {"tls_cert_file": "server.pem", "tls_key_file": "server.key", "tls_client_ca_file": "ca.pem"}
    return {"owner": owner, **{key: pki.path(name) for key, name in files.items()}, **values}


@pytest.fixture(scope="module")
def federation(owners: Owners, pkis: dict[str, Pki]) -> Iterator[dict[str, Running]]:
    """Services of the three owners; that of the south asks the other two."""
    with ExitStack() as stack:
        started: dict[str, Running] = {}
        partners = (Partner(caller=CALLER, **EVERYTHING),)
        for name in ("north", "west"):
            values = served_with(pkis[name], name, partners=partners)
            started[name] = stack.enter_context(running(server_for(owners.by_name[name], **values)))
        asked = tuple(upstream(name, started[name].target, pkis[name]) for name in ("west", "north"))
        values = served_with(pkis["south"], "south", upstreams=asked)
        started["south"] = stack.enter_context(running(server_for(owners.by_name["south"], **values)))
        yield started


@pytest.fixture(scope="module")
def south(federation: dict[str, Running], pkis: dict[str, Pki]) -> Iterator[Any]:
    """Stub of a person's connection to the south."""
    pki = pkis["south"]
    files = [pki.path(name).read_bytes() for name in ("ca.pem", "client.key", "client.pem")]
    with grpc.secure_channel(federation["south"].target, grpc.ssl_channel_credentials(*files)) as channel:
        yield retrieval_pb2_grpc.RetrievalServiceStub(channel)


@pytest.fixture(scope="module")
def merged(owners: Owners) -> Iterator[Any]:
    """Stub of one service over all patches."""
    with running(server_for(owners.merged)) as run, grpc.insecure_channel(run.target) as channel:
        yield retrieval_pb2_grpc.RetrievalServiceStub(channel)


@pytest.mark.parametrize("wanted", [None, pb.Filter(splits=["train"]), pb.Filter(exclude_cloud=True)])
@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
def test_three_owners_give_the_hits_of_one_merged_index_bit_for_bit(
    south: Any, merged: Any, owners: Owners, source: str, target: str, wanted: pb.Filter | None
) -> None:
    whole = merged.Search(query(owners, source, target, page_size=ALL, filter=wanted))
    whole_order = sorted(whole.hits, key=lambda h: (h.distance, owners.owner_of(h.patch.patch_id), h.patch.patch_id))
    for k in (1, 2, 7, ALL):
        found = south.Search(query(owners, source, target, page_size=k, filter=wanted, across=True))
        assert plain(found.hits) == plain(whole_order[:k])
        assert [hit.owner for hit in found.hits] == [owners.owner_of(hit.patch.patch_id) for hit in found.hits]
        assert (found.partial, found.candidates, found.query_code) == (False, whole.candidates, whole.query_code)
        assert [(o.owner, o.status) for o in found.owners] == [(n, pb.OWNER_STATUS_ANSWERED) for n in OWNERS]
        assert sum(o.hits for o in found.owners) == len(found.hits)
        assert (found.exact, found.recall) == (True, 1.0)


def test_ties_are_ordered_by_owner(south: Any, owners: Owners) -> None:
    found = south.Search(query(owners, "s2", "s2", page_size=3, across=True))
    assert [(hit.distance, hit.owner) for hit in found.hits] == [(0, name) for name in OWNERS]


def test_equal_requests_get_equal_answers(south: Any, owners: Owners) -> None:
    request = query(owners, "s1", "s2", page_size=9, across=True)
    assert len({south.Search(request).SerializeToString(deterministic=True) for _ in range(5)}) == 1


def test_pictures_are_of_this_archive_and_others_are_asked_at_their_address(
    south: Any, owners: Owners, federation: dict[str, Running], pkis: dict[str, Pki]
) -> None:
    found = south.Search(query(owners, "s1", "s2", page_size=ALL, across=True, include_thumbnails=True))
    assert {hit.owner for hit in found.hits if hit.thumbnail_png} == {"south"}
    assert sum(bool(hit.thumbnail_png) for hit in found.hits) == EACH
    hit = next(hit for hit in found.hits if hit.owner == "north")
    assert hit.owner_address == federation["north"].target
    own_rights = connection(pkis["north"], "stranger")  # of another authority: the owner knows nobody by it
    with RetrievalClient(hit.owner_address, **own_rights, attempts=1) as client, pytest.raises(RemoteError):
        client.get_patch(hit.patch.patch_id)


def connection(pki: Pki, name: str = "client") -> dict[str, str]:
    files = {"ca_file": "ca.pem", "cert_file": f"{name}.pem", "key_file": f"{name}.key"}
    return {key: str(pki.path(file)) for key, file in files.items()}


def test_client_and_command_line(
    owners: Owners, federation: dict[str, Running], pkis: dict[str, Pki], capsys: pytest.CaptureFixture[str]
) -> None:
    own = owners.by_name["south"].pairs[0].meta.patch_id
    with RetrievalClient(federation["south"].target, **connection(pkis["south"])) as client:
        answer = client.search_across(
            patch_id=own, source="s1", target="s2", k=5, filter=SearchFilter(splits=("train", "test"))
        )
    assert [owner.status for owner in answer.owners] == ["ANSWERED"] * 3
    assert (answer.partial, answer.exact, answer.recall) == (False, True, 1.0)
    assert {hit.owner for hit in answer.hits} <= set(OWNERS)
    near = {"north": upstream("north", federation["north"].target, pkis["north"]), "gone": upstream("gone", "[::1]:9")}
    values = {"owner": "south", "upstreams": tuple(near.values())}
    with running(server_for(owners.by_name["south"], **values)) as run:
        command = ["search", "--server", run.target, "--across", "-k", "12", "--patch-id", own]
        assert main([*command, "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert {row["owner"] for row in rows} == {"north", "south"}
        assert main(command) == 0
        printed = capsys.readouterr()
        assert "without gone (UNREACHABLE): it cannot be reached" in printed.err
        assert "the answer is not exact" in printed.err
        assert main([*command, "--min-recall", "1.5"]) == 2
        assert "min_recall must be above 0 and at most 1" in capsys.readouterr().err
        assert f"  north  {next(row['patch_id'] for row in rows if row['owner'] == 'north')}" in printed.out
        assert main(["search", "--server", run.target, "-k", "3", "--patch-id", own, "--json"]) == 0
        assert all("owner" not in row for row in json.loads(capsys.readouterr().out))


def test_open_inference_protocol(owners: Owners, federation: dict[str, Running], pkis: dict[str, Pki]) -> None:
    import urllib.request

    own = owners.by_name["south"].pairs[0].meta.patch_id
    asked = (upstream("north", federation["north"].target, pkis["north"]), upstream("gone", "127.0.0.1:9"))
    with running(server_for(owners.by_name["south"], owner="south", upstreams=asked)) as run:
        url = f"{run.rest}/v2/models/eoforge-retrieval-search-s2/infer"

        def infer(**body: Any) -> dict[str, Any]:
            inputs = [{"name": "patch_id", "shape": [1], "datatype": "BYTES", "data": [own]}]
            given = {"inputs": inputs, "parameters": {"query_modality": "s1", "across": True}} | body
            request = urllib.request.Request(url, json.dumps(given).encode())
            with urllib.request.urlopen(request, timeout=LONG_S) as answered:
                return {o["name"]: (o["shape"], o["data"]) for o in json.loads(answered.read())["outputs"]}

        outputs = infer()
        with grpc.insecure_channel(run.target) as channel:
            found, _ = across(retrieval_pb2_grpc.RetrievalServiceStub(channel), owners)
        assert outputs["patch_id"] == ([1, 10], [hit.patch.patch_id for hit in found.hits])
        assert outputs["distance"] == ([1, 10], [hit.distance for hit in found.hits])
        assert outputs["owner"] == ([1, 10], [hit.owner for hit in found.hits])
        assert (outputs["exact"], outputs["recall"]) == (([1], [False]), ([1], [1.0])), "an owner is left out"
        assert outputs["asked_owner"] == ([3], ["gone", "north", "south"])
        assert outputs["asked_status"] == ([3], ["UNREACHABLE", "ANSWERED", "ANSWERED"])
        for wrong in (
            {"parameters": {"query_modality": "s1"}, "outputs": [{"name": "owner"}]},
            {"parameters": {"query_modality": "s1", "across": "yes"}},
            {"inputs": [{"name": "patch_id", "shape": [2], "datatype": "BYTES", "data": [own, own]}]},
        ):
            with pytest.raises(urllib.error.HTTPError) as refused:
                infer(**wrong)
            assert refused.value.code in (400, 413)


def test_another_bundle_is_named_and_left_out(owners: Owners) -> None:
    partners = (Partner(caller="*", **EVERYTHING),)
    made = server_for(owners.other_bundle, owner="other", partners=partners)
    with running(made) as run, hub(owners, upstream("other", run.target)) as stub:
        found, said = across(stub, owners, page_size=ALL)
    assert found.partial
    assert said == {"other": ("OTHER_BUNDLE", "its codes come from another bundle"), "south": ("ANSWERED", "")}
    assert {hit.owner for hit in found.hits} == {"south"}


def test_an_upstream_that_leads_back_is_a_loop(owners: Owners) -> None:
    with pytest.raises(UsageError, match="names south, which is this archive itself"):
        settings_for(owners.merged, owner="south", upstreams=(upstream("south", "a:1"),)).require_consistent()
    with pytest.raises(UsageError, match="gives the address a:1 twice"):
        settings_for(
            owners.merged, owner="south", upstreams=(upstream("east", "a:1"), upstream("west", "a:1"))
        ).require_consistent()
    made = server_for(owners.by_name["south"], owner="south", partners=(Partner(caller="*"),))
    with running(made) as run, hub(owners, upstream("mirror", run.target)) as stub:
        _, said = across(stub, owners)
    status, words = said["mirror"]
    assert status == "REFUSED"
    assert "the upstreams form a loop: this query has come the way south > south" in words


def test_two_that_name_each_other_answer_and_pass_nothing_on(owners: Owners) -> None:
    from eoforge.storage.seaweed import free_ports

    north, south = free_ports(2)
    partners = (Partner(caller="*", **EVERYTHING),)
    at = {"north": f"127.0.0.1:{north}", "south": f"127.0.0.1:{south}"}
    other = {"north": "south", "south": "north"}
    with ExitStack() as stack:
        for name, port in (("north", north), ("south", south)):
            asked = (upstream(other[name], at[other[name]]),)
            values = {"owner": name, "upstreams": asked, "partners": partners, "port": port}
            stack.enter_context(running(server_for(owners.by_name[name], **values)))
        channel = stack.enter_context(grpc.insecure_channel(at["south"]))
        stub = retrieval_pb2_grpc.RetrievalServiceStub(channel)
        found, said = across(stub, owners, page_size=ALL)
        assert {status for status, _ in said.values()} == {"ANSWERED"}
        assert len(found.hits) == 2 * EACH
        onwards = pb.SearchRequest(
            code=found.query_code, target_modality=pb.MODALITY_S2, across=True, visited=["north"]
        )
        with pytest.raises(grpc.RpcError) as refused:
            stub.Search(onwards)
        assert "not passed on" in refused.value.details()
        assert details(refused.value)["fields"][0][0] == "across"


def test_what_a_search_across_archives_cannot_do_is_named(owners: Owners) -> None:
    with hub(owners) as stub, pytest.raises(grpc.RpcError) as refused:
        across(stub, owners)
    assert "EOFORGE_UPSTREAMS names none" in refused.value.details()
    with hub(owners, upstream("gone", "127.0.0.1:9")) as stub:
        with pytest.raises(grpc.RpcError) as refused:
            across(stub, owners, page_token="x")
        assert details(refused.value)["fields"][0][0] == "page_token"
        with pytest.raises(grpc.RpcError) as refused:
            across(stub, owners, filter=pb.Filter(countries=["Finnland"]))
        assert "unknown country 'Finnland'; did you mean Finland" in refused.value.details()
        with pytest.raises(grpc.RpcError) as refused:
            across(stub, owners, bundle_id="another")
        assert details(refused.value)["reason"] == "OTHER_BUNDLE"
