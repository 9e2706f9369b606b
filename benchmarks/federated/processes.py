"""Processes of the federation benchmarks: a coordinator with TLS, silos without work, a memory sampler."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.client.base import RemoteError
from eoforge.client.federation_base import transient
from eoforge.client.silo import SiloClient
from eoforge.federated.ca import Authority
from eoforge.logs import configure_logs
from eoforge.storage.chunks import check_chunk, digest_of, file_chunks, file_manifest
from eoforge.storage.tensorfile import write_file

RETRY_S = 0.02
"""Pause of a silo while the coordinator is down: short, because the recovery is measured."""
TENSOR_ELEMENTS = 5 << 20 >> 2
"""Elements of one tensor: 5 MB of float32, as Flower cuts its own."""
CUT_AT = 0.9
"""Share of an update after which a connection is cut."""


class MemorySampler:
    """Sampler of the resident memory of a process and its children, until :meth:`stop`.

    Args:
        process: Current process id, which changes with every restart of a server.
    """

    def __init__(self, process: Callable[[], int]) -> None:
        self.peak = 0
        self._process, self._over = process, threading.Event()
        threading.Thread(target=self._sample, daemon=True).start()

    def now(self) -> int:
        """Bytes of all processes together; 0 without a process."""
        try:
            root = psutil.Process(self._process())
            return sum(p.memory_info().rss for p in (root, *root.children(recursive=True)))
        except psutil.NoSuchProcess:
            return 0

    def stop(self) -> None:
        """Ends the sampling."""
        self._over.set()

    def _sample(self) -> None:
        while not self._over.wait(0.05):
            self.peak = max(self.peak, self.now())


class CoordinatorProcess:
    """Process of the federation service, with mutual TLS."""

    def __init__(self, folder: Path, tls: Path, port: int = 0) -> None:
        self._environment = {
            **os.environ,
            "EOFORGE_FEDERATION_URI": str(folder / "store"),
            "EOFORGE_PORT": str(port),
            "EOFORGE_REST_PORT": "0",
            "EOFORGE_INSTANCE": "bench",
            "EOFORGE_LOG_LEVEL": "info",
            "EOFORGE_TLS_CERT_FILE": str(tls / "coordinator.pem"),
            "EOFORGE_TLS_KEY_FILE": str(tls / "coordinator.key"),
            "EOFORGE_TLS_CLIENT_CA_FILE": str(tls / "ca.pem"),
        }
        self.target = self.start()
        self.memory = MemorySampler(lambda: self.process.pid)

    def start(self) -> str:
        """Starts the process, on the same port as before; returns its address."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services.federation"], env=self._environment, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if '"event": "serving"' in line:
                self._environment["EOFORGE_PORT"] = str(json.loads(line)["port"])
                self.rest_port = json.loads(line)["rest_port"]
                subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=subprocess.DEVNULL)
                return f"127.0.0.1:{self._environment['EOFORGE_PORT']}"
        raise SystemExit(f"the coordinator ended with {self.process.wait()}: {''.join(lines[-3:])}")

    def payload_bytes(self, tls: Path) -> float:
        """Bytes of chunks in both directions, by the metrics of the process."""
        context = ssl.create_default_context(cafile=str(tls / "ca.pem"))
        context.load_cert_chain(str(tls / "bench.pem"), str(tls / "bench.key"))
        with urllib.request.urlopen(f"https://127.0.0.1:{self.rest_port}/metrics", context=context) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(x.split()[-1]) for x in lines if x.startswith("eoforge_federation_bytes_total{"))

    def kill(self) -> None:
        """``kill -9``."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Ends process and sampler."""
        self.memory.stop()
        self.kill()


def certificates(folder: Path, silos: list[str]) -> Path:
    """Folder with keys and certificates of coordinator, operator ``bench`` and silos."""
    tls = folder / "tls"
    authority = Authority.create(folder / "ca")
    authority.issue("server", "coordinator", tls, hosts=["127.0.0.1"])
    authority.issue("operator", "bench", tls)
    for name in silos:
        authority.issue("silo", name, tls)
    return tls


def options(tls: Path, name: str) -> dict[str, Any]:
    """TLS options of a client."""
    return {
        "ca_file": str(tls / "ca.pem"),
        "cert_file": str(tls / f"{name}.pem"),
        "key_file": str(tls / f"{name}.key"),
        "attempts": 200,
    }


def layers_of(megabytes: int) -> int:
    """Number of 5 MB tensors of a model of at least that size."""
    return math.ceil(megabytes * 1_000_000 / (4 * TENSOR_ELEMENTS))


def write_model(folder: Path, megabytes: int) -> int:
    """Writes ``model`` and a random ``update`` in tensors of 5 MB; returns the size of the model in bytes."""
    names = [f"layer-{i:04d}" for i in range(layers_of(megabytes))]
    rng = np.random.default_rng(0)
    write_file(folder / "model", {n: np.zeros(TENSOR_ELEMENTS, np.float32) for n in names})
    write_file(folder / "update", {f"delta/{n}": rng.standard_normal(TENSOR_ELEMENTS, np.float32) for n in names})
    return (folder / "model").stat().st_size


def idle_silo(
    target: str, tls: Path, name: str, update: str, cut_in: int, held_in: int, release: Any, resent: Any
) -> None:
    """Silo without work: downloads the model, drops it, and answers with a file.

    Args:
        target: Address of the coordinator.
        tls: Folder of certificates.
        name: Id of the silo.
        update: File to send.
        cut_in: Round in which the connection is cut at 90 % of the upload; 0 for none.
        held_in: Round in which the answer waits until ``release`` is set; 0 for none.
        release: Event that ends the wait.
        resent: Receives the number of bytes sent after the cut.
    """
    configure_logs(as_json=True, level=logging.ERROR)  # retries while the coordinator is down are expected
    manifest = file_manifest(update)
    digest = digest_of(manifest)
    with SiloClient(target, **options(tls, name)) as client:
        while True:
            try:
                client.register(samples=1)
                for task in client.tasks():
                    if task.kind == pb.TASK_KIND_END:
                        return
                    if task.kind != pb.TASK_KIND_TRAIN:
                        continue
                    for item in task.objects:
                        request = pb.DownloadRequest(
                            run_id=task.run_id, digest=item.digest, chunks=range(len(item.manifest.chunks))
                        )
                        for message in client.stub.Download(request, metadata=client._metadata):
                            check_chunk(item.manifest, message.chunk)
                    if task.round == held_in:
                        release.wait()
                    if task.round == cut_in and not resent.value:
                        resent.value = _cut(client, task, update, manifest)
                    client.upload(task.run_id, task.round, update, manifest, digest)
                    client.answer(task.run_id, task.round, update=pb.UpdateAnswer(digest=digest, samples=1, steps=1))
            except (RemoteError, grpc.RpcError) as error:
                if not transient(error):
                    raise  # a refused silo must end the measurement, not retry for ever
                time.sleep(RETRY_S)


def _cut(client: SiloClient, task: pb.Task, path: str, manifest: pb.Manifest) -> int:
    """Uploads 90 % and cuts the connection; returns the bytes that the coordinator reports missing."""
    announced = pb.PrepareUpdateRequest(run_id=task.run_id, round=task.round, manifest=manifest)
    client.stub.PrepareUpdate(announced, metadata=client._metadata)

    def messages() -> Iterator[pb.PutUpdateRequest]:
        head = pb.PutUpdateRequest(run_id=task.run_id, round=task.round, digest=digest_of(manifest))
        for chunk in file_chunks(path, manifest, range(int(CUT_AT * len(manifest.chunks)))):
            head.chunk.CopyFrom(chunk)
            yield head
            head = pb.PutUpdateRequest()
        call.cancel()  # gRPC has taken the last chunk, whether or not it has sent it

    call = client.stub.PutUpdate.future(messages(), metadata=client._metadata)
    with contextlib.suppress(grpc.FutureCancelledError):
        call.exception()  # waits for the end
    missing = client.stub.PrepareUpdate(announced, metadata=client._metadata).missing
    return sum(len(chunk.data) for chunk in file_chunks(path, manifest, missing))
