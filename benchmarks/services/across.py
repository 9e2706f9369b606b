"""Latency of a search across 1 and 3 other owners over the bare service, and with one owner gone: ``--out FILE``.

Owners are small archives with one bundle, each served by a process of its own with mutual TLS on loopback; all share
the machine's cores. The bare figure is a plain search by the same process that asks the others.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import lance

from benchmarks.services.calls import one_by_one, percentiles, process_of, together
from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.api.retrieval.v1 import retrieval_pb2_grpc
from eoforge.data.records import record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.data.tables.schema import PATCHES
from eoforge.federated.ca import TRUST_DOMAIN, Authority
from eoforge.index.build import build_index
from eoforge.methods import get_method
from eoforge.storage.addresses import TableRef

HUB, OTHERS = "hub", ("east", "north", "west")
EACH, K, SEQUENTIAL, WARM = 100, 10, 200, 20


def archives(folder: Path, patches: int, owners: Sequence[str] = (HUB, *OTHERS)) -> dict[str, str]:
    """Codes of each owner, from one bundle that was trained for a moment: the figures do not depend on it."""
    method, codes, bundle = get_method("ss_cm_rsir"), {}, None
    for number, owner in enumerate(owners):
        uri = str(folder / owner / "patches.lance")
        rows = record_batch(list(synthetic_pairs(patches, seed=number)))
        table = TableRef(uri, lance.write_dataset(rows, uri, schema=PATCHES).version)
        if bundle is None:
            config = method.config("tiny", {"epochs": "1", "batch_size": "8"})
            bundle = method.train(table, str(folder / "runs"), config)
        codes[owner] = str(folder / owner / "codes.lance")
        build_index(bundle.uri, table, codes[owner], method.load(bundle, "cpu"))
    return codes


def certificates(folder: Path) -> Path:
    """Certificates of all owners below one authority."""
    authority = Authority.create(folder / "ca")
    for owner in OTHERS:
        authority.issue("server", owner, folder, hosts=("127.0.0.1", "localhost"))
    authority.issue("silo", HUB, folder)
    return folder


def serve(values: dict[str, Any], ready: Any) -> None:
    """Retrieval service; the child process's main."""
    from eoforge.logs import configure_logs
    from services.retrieval.server import build
    from services.retrieval.settings import RetrievalSettings

    settings = RetrievalSettings(port=0, rest_port=0, drain_notice_seconds=0, **values)
    configure_logs(as_json=True, level=logging.ERROR)

    async def main() -> None:
        server = build(settings)
        await server.start()
        ready.put(server.port)
        await asyncio.Event().wait()

    asyncio.run(main())


@contextmanager
def owner(name: str, codes: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Service of another owner; yields the settings of an upstream."""
    values = {
        "codes_uri": codes,
        "owner": name,
        "tls_cert_file": folder / f"{name}.pem",
        "tls_key_file": folder / f"{name}.key",
        "tls_client_ca_file": folder / "ca.pem",
        "partners": [{"caller": f"{TRUST_DOMAIN}silo/{HUB}", "fields": "all", "quota_per_second": None}],
    }
    files = {"ca_file": folder / "ca.pem", "cert_file": folder / f"{HUB}.pem", "key_file": folder / f"{HUB}.key"}
    with process_of(serve, values) as address:
        yield {"owner": name, "address": address(), "deadline_seconds": 30, **files}


async def measure(target: str, codes: str, ways: dict[str, bool], load: bool) -> dict[str, Any]:
    """Latency of each way of asking the service at ``target``: plain, or across."""
    table = lance.dataset(codes).to_table(columns=["patch_id"], limit=2 * EACH)
    ids = list(dict.fromkeys(table.column("patch_id").to_pylist()))[:SEQUENTIAL]
    queries, found = (ids * SEQUENTIAL)[:SEQUENTIAL], {}
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = retrieval_pb2_grpc.RetrievalServiceStub(channel)
        for name, across in ways.items():

            async def call(patch_id: str, across: bool = across) -> Any:
                request = pb.SearchRequest(
                    patch_id=patch_id,
                    query_modality=pb.MODALITY_S1,
                    target_modality=pb.MODALITY_S2,
                    page_size=K,
                    across=across,
                )
                return await stub.Search(request, timeout=60)

            await one_by_one(call, queries[:WARM])
            found[name] = percentiles(await one_by_one(call, queries))
            if across:
                answer = await call(ids[0])
                found[name]["answered"] = sum(o.status == pb.OWNER_STATUS_ANSWERED for o in answer.owners)
                found[name]["asked"] = len(answer.owners)
            if load:
                found[name]["clients_8"] = await together(call, 8, queries)
    return found


def figures(folder: Path, patches: int) -> dict[str, Any]:
    """All figures."""
    codes, keys = archives(folder, patches), certificates(folder / "keys")
    out: dict[str, Any] = {"patches_each": patches, "k": K, "queries": SEQUENTIAL}
    with ExitStack() as stack:
        others = [stack.enter_context(owner(name, codes[name], keys)) for name in OTHERS[:2]]
        last = ExitStack()
        others.append(last.enter_context(owner(OTHERS[2], codes[OTHERS[2]], keys)))
        stack.push(last)
        for asked in (1, 3):
            values = {"codes_uri": codes[HUB], "owner": HUB, "upstreams": others[:asked]}
            with process_of(serve, values) as address:
                target, ways = address(), {"bare": False, "across": True}
                found = asyncio.run(measure(target, codes[HUB], ways, load=asked == 3))
                bare, across = found["bare"]["p50_ms"], found["across"]["p50_ms"]
                found["across_over_bare_p50"] = round(across / bare, 2)
                found["across_minus_bare_p50_ms"] = round(across - bare, 3)
                out[f"owners_{asked}"] = found
                print(json.dumps({asked: found}), flush=True)
                if asked == 3:
                    last.close()
                    gone = asyncio.run(measure(target, codes[HUB], {"across": True}, load=False))
                    out["owners_3_one_gone"] = gone["across"]
    return out


def main() -> None:
    """Starts the services, measures, prints and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--patches", type=int, default=EACH, help="patches of each owner")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps(figures(Path(folder), arguments.patches), indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
