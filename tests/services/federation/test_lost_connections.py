"""Connections that are lost without a FIN, and certificates that change while a silo waits."""

from __future__ import annotations

import shutil
import socket
import threading
from pathlib import Path

import pytest

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.client.federation import FederationClient
from eoforge.client.silo import SiloClient
from eoforge.federated.ca import Authority
from services._runtime import server as runtime
from tests.federated.quadratic import spec, write_model
from tests.services.federation.helpers import SiloThread, coordinator_of, server_for
from tests.services.support import running, until


class Proxy:
    """TCP proxy; after :meth:`cut` both connections stay open and drop all bytes."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.partition(":")
        self._port, self._cut = int(port), threading.Event()
        self._listener = socket.create_server((self._host, 0))
        self._ends: list[socket.socket] = []
        self.target = f"{self._host}:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._cut.set()

    def close(self) -> None:
        for end in (self._listener, *self._ends):
            end.close()

    def _accept(self) -> None:
        here, _ = self._listener.accept()
        there = socket.create_connection((self._host, self._port))
        self._ends += [here, there]
        for source, sink in ((here, there), (there, here)):
            threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                if not self._cut.is_set():
                    sink.sendall(data)
        except OSError:
            return  # closed at the end of the test


def test_streams_of_a_disconnected_silo_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a silo behind a bad line has all the streams that it may have, dead ones, and is kept out for two hours."""
    monkeypatch.setattr(runtime, "KEEPALIVE_MS", 200)
    monkeypatch.setattr(runtime, "KEEPALIVE_TIMEOUT_MS", 200)
    with running(server_for(tmp_path / "store")) as served:
        proxy = Proxy(served.target)
        with SiloClient(proxy.target, silo_id="a") as client:
            client.register(samples=1)
            tasks = client.tasks()
            streams = coordinator_of(served).silos._streams
            until(lambda: streams.get("a") == 1)
            proxy.cut()
            until(lambda: not streams, 8.0)
            tasks.close()  # type: ignore[attr-defined]  # a generator; it holds the stream until here
        proxy.close()


def test_a_certificate_that_comes_while_the_silo_waits_is_used(tmp_path: Path) -> None:
    """The one that it has is refused, as when it expired while the coordinator was away: no restart is needed."""
    authority, stranger = Authority.create(tmp_path / "ca"), Authority.create(tmp_path / "stranger")
    server = authority.issue("server", "coordinator", tmp_path / "tls", hosts=["127.0.0.1", "localhost"])
    operator = authority.issue("operator", "ada", tmp_path / "tls")
    old, new = stranger.issue("silo", "a", tmp_path / "old"), authority.issue("silo", "a", tmp_path / "new")
    files = {"tls_cert_file": server.certificate, "tls_key_file": server.key, "tls_client_ca_file": server.ca}
    with running(server_for(tmp_path / "store", **files)) as served:
        mine = {"ca_file": server.ca, "cert_file": old.certificate, "key_file": old.key}
        runner = SiloThread(served.target, "a", tmp_path, until="run", attempts=1, **mine)
        refused = runner.silo._client._channel
        until(lambda: runner.silo._client._channel is not refused)
        for source, target in ((new.certificate, old.certificate), (new.key, old.key)):
            shutil.copy(source, target)
        with FederationClient(
            served.target, ca_file=server.ca, cert_file=operator.certificate, key_file=operator.key
        ) as client:
            model = client.put_model(write_model(tmp_path / "model.safetensors"))
            client.create_run(spec(model, policy={"min_silos": 1}), "run")
            assert runner.join() == pb.RUN_STATUS_FINISHED
