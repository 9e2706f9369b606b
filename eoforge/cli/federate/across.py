"""Last part of the federated demo: each silo indexes its patches with the common bundle, and one search asks them all.

Four retrieval services, one per silo, each with its own certificate, run in this process. They name each other as
upstreams; only the code of the query travels.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eoforge.errors import EoforgeError

if TYPE_CHECKING:
    from eoforge.client import AcrossAnswer
    from eoforge.federated.ca import Authority
    from services._runtime.server import Server

HITS = 8
START_S = 120.0
FIELDS = ("country", "labels", "acquired_s1", "acquired_s2", "candidates")
"""What the silos of the demo let each other have beside patch ids and distances."""


@dataclass(frozen=True)
class Shared:
    """One search across the silos.

    Attributes:
        asker: Silo whose service was asked.
        patch_id: Query: a patch of that silo.
        sensor: Sensor of query and hits.
        answer: Hits of all silos.
    """

    asker: str
    patch_id: str
    sensor: str
    answer: AcrossAnswer


def search_all(folder: Path, authority: Authority, bundle_uri: str, tables: Mapping[str, str]) -> Shared:
    """Index of each silo by the bundle of the run, and one search from the first silo across all of them.

    Args:
        folder: Folder of this run of the demo.
        authority: Authority that issued the silos' certificates.
        bundle_uri: Bundle of the run.
        tables: Table of patches by silo.

    Raises:
        EoforgeError: An owner did not answer.
    """
    from eoforge.bundle import load_bundle
    from eoforge.client import RetrievalClient
    from eoforge.index.build import build_index
    from eoforge.methods import get_method
    from eoforge.storage.addresses import TableRef, open_table

    bundle = load_bundle(bundle_uri)
    encoder = get_method(str(bundle.config["method"])).load(bundle, "cpu")
    codes = {silo: str(folder / f"{silo}-codes.lance") for silo in tables}
    for silo, table in tables.items():
        build_index(bundle_uri, TableRef.parse(table), codes[silo], encoder)
    asker, sensor = next(iter(tables)), encoder.modalities[0]
    patches = open_table(TableRef.parse(tables[asker]))
    patch_id = str(patches.to_table(columns=["patch_id"], limit=1)["patch_id"][0])
    certificates = folder / "certificates"
    with _services(folder, authority, codes) as addresses:
        files = _files(certificates, "operator")
        with RetrievalClient(addresses[asker], **files) as client:
            answer = client.search_across(patch_id=patch_id, source=sensor, target=sensor, k=HITS)
    if answer.partial or len(answer.owners) != len(tables):
        raise EoforgeError(f"expected answers of {', '.join(tables)}; got {answer.owners}")
    return Shared(asker, patch_id, sensor, answer)


@contextmanager
def _services(folder: Path, authority: Authority, codes: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Retrieval service of each silo during the block; yields their addresses. Their logs go to a file."""
    from eoforge.federated.ca import TRUST_DOMAIN
    from eoforge.storage.seaweed import free_ports
    from services.retrieval.owners import Partner, Upstream
    from services.retrieval.server import build
    from services.retrieval.settings import RetrievalSettings

    certificates = folder / "certificates"
    addresses = {silo: f"127.0.0.1:{port}" for silo, port in zip(codes, free_ports(len(codes)), strict=True)}
    made = []
    for silo, uri in codes.items():
        server = f"{silo}-retrieval"
        authority.issue("server", server, certificates, hosts=("127.0.0.1", "localhost"))
        own, others = _files(certificates, server), [name for name in codes if name != silo]
        made.append(
            RetrievalSettings(
                codes_uri=uri,
                port=int(addresses[silo].rpartition(":")[2]),
                rest_port=0,
                drain_notice_seconds=0,
                tls_cert_file=own["cert_file"],
                tls_key_file=own["key_file"],
                tls_client_ca_file=own["ca_file"],
                owner=silo,
                upstreams=[
                    Upstream(owner=name, address=addresses[name], deadline_seconds=30, **_files(certificates, silo))
                    for name in others
                ],
                partners=[Partner(caller=f"{TRUST_DOMAIN}silo/{name}", fields=FIELDS) for name in others],
            )
        )
    servers = _running(lambda: [build(settings) for settings in made])
    with (folder / "retrieval.log").open("w") as log, redirect_stderr(log), servers:
        yield addresses


@contextmanager
def _running(make: Any) -> Iterator[None]:
    """Servers in an event loop of a thread.

    Raises:
        EoforgeError: They did not start; the cause says why.
    """
    ready, failed = threading.Event(), []
    ends: list[tuple[asyncio.Event, asyncio.AbstractEventLoop]] = []

    async def serve() -> None:
        ended = asyncio.Event()
        ends.append((ended, asyncio.get_running_loop()))
        servers: list[Server] = make()
        try:
            for server in servers:
                await server.start()
            ready.set()
            await ended.wait()
        finally:
            await asyncio.gather(*(server.stop() for server in servers), return_exceptions=True)

    def main() -> None:
        try:
            asyncio.run(serve())
        except Exception as error:  # raised in the thread that waits
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=main, daemon=True)
    thread.start()
    if not ready.wait(START_S) or failed:
        raise EoforgeError("the retrieval services of the silos did not start") from next(iter(failed), None)
    try:
        yield
    finally:
        ((ended, loop),) = ends
        loop.call_soon_threadsafe(ended.set)
        thread.join(START_S)


def _files(certificates: Path, name: str) -> dict[str, Any]:
    files = {"ca_file": "ca.pem", "cert_file": f"{name}.pem", "key_file": f"{name}.key"}
    return {what: str(certificates / file) for what, file in files.items()}
