"""Revocation of certificates: lists of the right authority, open streams, files that are unusable for a moment."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from eoforge.client import FederationClient, RemoteError
from eoforge.client.silo import SiloClient
from eoforge.errors import UsageError
from eoforge.federated.ca import Authority, revoked_certificates
from services._runtime.auth import Caller
from services._runtime.errors import Unauthenticated
from services.federation.identity import Identities
from tests.services.federation.helpers import coordinator_of, server_for, settings_for
from tests.services.support import Running, running, until

WAIT_S = 60.0


@dataclass
class Site:
    """Coordinator with an authority, and clients with its certificates."""

    run: Running
    authority: Authority
    tls: Path

    @property
    def revoked(self) -> Path:
        return self.authority.folder / "crl.pem"

    def silo(self, name: str) -> SiloClient:
        own = {"cert_file": str(self.tls / f"{name}.pem"), "key_file": str(self.tls / f"{name}.key")}
        return SiloClient(self.run.target, attempts=1, ca_file=str(self.tls / "ca.pem"), **own)

    def operator(self, name: str) -> FederationClient:
        own = {"cert_file": str(self.tls / f"{name}.pem"), "key_file": str(self.tls / f"{name}.key")}
        return FederationClient(self.run.target, attempts=1, ca_file=str(self.tls / "ca.pem"), **own)


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    authority = Authority.create(folder / "ca")
    tls = folder / "tls"
    authority.issue("server", "coordinator", tls, hosts=["127.0.0.1"])
    for name in ("berlin", "bonn"):
        authority.issue("silo", name, tls)
    authority.issue("operator", "dora", tls)
    files = {
        "tls_cert_file": tls / "coordinator.pem",
        "tls_key_file": tls / "coordinator.key",
        "tls_client_ca_file": tls / "ca.pem",
        "revoked_file": authority.folder / "crl.pem",
    }
    with running(server_for(folder / "store", **files)) as run:
        yield Site(run, authority, tls)


def end_of(stream: Iterator[object]) -> queue.Queue[RemoteError | None]:
    """How a stream ends, once it has: the error, or None."""
    found: queue.Queue[RemoteError | None] = queue.Queue()

    def read() -> None:
        try:
            for _ in stream:
                pass
            found.put(None)
        except RemoteError as error:
            found.put(error)

    threading.Thread(target=read, daemon=True).start()
    return found


def test_open_streams_of_a_revoked_silo_end_and_others_go_on(tmp_path: Path) -> None:
    with site(tmp_path) as found, found.silo("berlin") as berlin, found.silo("bonn") as bonn:
        for silo in (berlin, bonn):
            silo.register(samples=3)
        ends = [end_of(silo.tasks()) for silo in (berlin, bonn)]
        until(lambda: set(coordinator_of(found.run).silos._streams) == {"berlin", "bonn"})
        found.authority.revoke("berlin")
        error = ends[0].get(timeout=WAIT_S)
        assert error is not None
        assert (error.code, error.remote_reason) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
        assert ends[1].empty()
        bonn.heartbeat("idle")


def test_a_list_of_another_authority_is_not_taken_up(tmp_path: Path) -> None:
    with site(tmp_path) as found, found.silo("berlin") as berlin:
        berlin.register(samples=3)
        found.authority.revoke("bonn")
        berlin.register(samples=3)  # the list is read
        other = Authority.create(tmp_path / "other")
        other.issue("silo", "berlin", tmp_path / "elsewhere")
        for content in DAMAGE.values():
            content(found.revoked, other)
            berlin.register(samples=3)
            with found.silo("bonn") as bonn, pytest.raises(RemoteError) as caught:
                bonn.register(samples=3)
            assert caught.value.code == "UNAUTHENTICATED"
            assert found.revoked.name not in str(caught.value)
            assert REGISTRY.get_sample_value("eoforge_stale_file", {"setting": "EOFORGE_REVOKED_FILE"}) == 1


def _foreign(path: Path, other: Authority) -> None:
    path.write_bytes((other.folder / "crl.pem").read_bytes())


def _both(path: Path, other: Authority) -> None:
    path.write_bytes(path.read_bytes() + (other.folder / "crl.pem").read_bytes())


DAMAGE: dict[str, Callable[[Path, Authority], object]] = {
    "of another authority": _foreign,
    "with one of another authority": _both,
    "empty": lambda path, _: path.write_bytes(b""),
    "half-written": lambda path, _: path.write_bytes(b"-----BEGIN X509 CRL-----\nMIIB"),
    "of another kind": lambda path, other: path.write_bytes((other.folder / "ca.pem").read_bytes()),
    "absent": lambda path, _: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_an_unusable_list_is_refused_at_the_start(damage: str, tmp_path: Path) -> None:
    authority, other = Authority.create(tmp_path / "ca"), Authority.create(tmp_path / "other")
    path = authority.folder / "crl.pem"
    DAMAGE[damage](path, other)
    with pytest.raises(UsageError, match="EOFORGE_REVOKED_FILE"):
        Identities(path, authority.folder / "ca.pem")
    if damage != "absent":
        authority.issue("silo", "berlin", tmp_path / "tls")
        with pytest.raises(UsageError):  # nor does the authority itself go on from it
            authority.revoke("berlin")


def test_a_list_without_an_authority_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="EOFORGE_TLS_CLIENT_CA_FILE"):
        settings_for(tmp_path, revoked_file=tmp_path / "crl.pem").require_consistent()


def test_lists_of_two_authorities_revoke_certificates_of_both_and_of_nobody_else(tmp_path: Path) -> None:
    authorities = [Authority.create(tmp_path / name, name) for name in ("one", "two", "three")]
    issued = [authority.issue("silo", "berlin", tmp_path / f"tls-{n}") for n, authority in enumerate(authorities)]
    for authority in authorities[:2]:
        authority.revoke("berlin")
    ca, lists = tmp_path / "ca.pem", tmp_path / "crl.pem"
    ca.write_bytes(b"".join((a.folder / "ca.pem").read_bytes() for a in authorities))
    lists.write_bytes(b"".join((a.folder / "crl.pem").read_bytes() for a in authorities[:2]))
    assert len(revoked_certificates(lists.read_bytes(), ca.read_bytes())) == 2
    identities = Identities(lists, ca)
    callers = [Caller("x", "certificate", certificate=Path(one.certificate).read_bytes()) for one in issued]
    for caller in callers[:2]:
        with pytest.raises(Unauthenticated):
            identities.admit(caller)
    identities.admit(callers[2])
    os.truncate(lists, 0)
    with pytest.raises(Unauthenticated):
        identities.admit(callers[0])
