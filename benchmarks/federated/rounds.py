"""What a round costs beside training: ``python -m benchmarks.federated.rounds --megabytes 10 --silos 4 --out FILE``.

Zero-work silos over loopback with TLS: each is a process that downloads the model, drops it, and answers with a mapped
file. The coordinator is a process of its own. Measured per round: seconds from opened to reduced (what the journal says
plus delivery), memory of the coordinator, bytes of chunks over the ideal ``2 * silos * model``. Then the time from a
``kill -9`` with half of the updates in until the coordinator answers again, and how many of those updates it has kept.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.client_base import RemoteError
from eoforge.client_federation import FederationClient, SiloClient, check_chunk, file_manifest, transient
from eoforge.federated.ca import Authority
from eoforge.federated.objects import digest_of
from eoforge.federated.tensorfile import CHUNK_BYTES, write_file
from eoforge.logs import configure_logs

ROUNDS, WARM_UP = 5, 1
READY_S = 180.0
AWAY_S = 0.02
"""Pause of a silo while the coordinator is down: short, because what follows is measured."""
TENSOR_ELEMENTS = 5 << 20 >> 2
"""Elements of one tensor: 5 MB of float32, as in the peers' measurement."""


class Coordinator:
    """The service as a process, with TLS."""

    def __init__(self, folder: Path, tls: Path) -> None:
        self._environment = {
            **os.environ,
            "EOFORGE_FEDERATION_URI": str(folder / "store"),
            "EOFORGE_PORT": "0",
            "EOFORGE_REST_PORT": "0",
            "EOFORGE_INSTANCE": "bench",
            "EOFORGE_LOG_LEVEL": "info",
            "EOFORGE_TLS_CERT_FILE": str(tls / "coordinator.pem"),
            "EOFORGE_TLS_KEY_FILE": str(tls / "coordinator.key"),
            "EOFORGE_TLS_CLIENT_CA_FILE": str(tls / "ca.pem"),
        }
        self.peak = 0
        self._over = threading.Event()
        threading.Thread(target=self._sample, daemon=True).start()

    def start(self) -> str:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services.federation"], env=self._environment, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if '"event": "serving"' in line:
                self._environment["EOFORGE_PORT"] = str(json.loads(line)["port"])
                self.rest_port = json.loads(line)["rest_port"]
                subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=subprocess.DEVNULL)
                return f"127.0.0.1:{self._environment['EOFORGE_PORT']}"
        raise SystemExit(f"the coordinator ended with {self.process.wait()}")

    def payload_bytes(self, tls: Path) -> float:
        """Bytes of chunks that went through this process, both ways, by its own metrics."""
        context = ssl.create_default_context(cafile=str(tls / "ca.pem"))
        context.load_cert_chain(str(tls / "bench.pem"), str(tls / "bench.key"))
        with urllib.request.urlopen(f"https://127.0.0.1:{self.rest_port}/metrics", context=context) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(x.split()[-1]) for x in lines if x.startswith("eoforge_federation_bytes_total{"))

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        self._over.set()
        self.process.kill()
        self.process.wait()

    def _sample(self) -> None:
        while not self._over.wait(0.02):
            try:
                self.peak = max(self.peak, psutil.Process(self.process.pid).memory_info().rss)
            except (AttributeError, psutil.NoSuchProcess):
                continue


def options(tls: Path, name: str) -> dict[str, Any]:
    """TLS options of a client."""
    return {
        "ca_file": str(tls / "ca.pem"),
        "cert_file": str(tls / f"{name}.pem"),
        "key_file": str(tls / f"{name}.key"),
        "attempts": 200,
    }


def silo(target: str, tls: Path, name: str, update: str, hold: Any) -> None:
    """A zero-work silo. Where ``hold`` is set, it waits with its answer until it is cleared."""
    configure_logs(as_json=True, level=logging.ERROR)  # retries while the coordinator is down are what is measured
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
                    while hold.value == task.round:
                        time.sleep(0.01)
                    client.upload(task.run_id, task.round, update, manifest, digest)
                    client.answer(task.run_id, task.round, update=pb.UpdateAnswer(digest=digest, samples=1, steps=1))
            except (RemoteError, grpc.RpcError) as error:
                if not transient(error):
                    raise  # a silo that is refused must end the measurement, not spin unseen
                time.sleep(AWAY_S)


def measure(megabytes: int, silos: int) -> dict[str, Any]:
    """The figures of one size."""
    scratch = os.environ.get("EOFORGE_BENCH_FOLDER")
    with tempfile.TemporaryDirectory(dir=scratch) as temporary:
        folder = Path(temporary)
        tls = folder / "tls"
        authority = Authority.create(folder / "ca")
        authority.issue("server", "coordinator", tls, hosts=["127.0.0.1"])
        authority.issue("operator", "bench", tls)
        names = [f"silo-{i:02d}" for i in range(silos)]
        layers = math.ceil(megabytes * 1_000_000 / (4 * TENSOR_ELEMENTS))
        shapes = {f"layer-{i:04d}": (TENSOR_ELEMENTS,) for i in range(layers)}
        rng = np.random.default_rng(0)
        write_file(folder / "model", {n: np.zeros(s, np.float32) for n, s in shapes.items()})
        write_file(folder / "update", {f"delta/{n}": rng.standard_normal(s[0], np.float32) for n, s in shapes.items()})
        size = (folder / "model").stat().st_size
        coordinator = Coordinator(folder, tls)
        target = coordinator.start()
        context = multiprocessing.get_context("spawn")
        hold = context.Value("i", 0)
        free = context.Value("i", 0)
        rounds = WARM_UP + ROUNDS + 1
        hold.value = rounds  # in the last round, half of the silos wait while the coordinator is killed
        workers = []
        for number, name in enumerate(names):
            authority.issue("silo", name, tls)
            gate = hold if number >= silos // 2 else free
            workers.append(context.Process(target=silo, args=(target, tls, name, str(folder / "update"), gate)))
            workers[-1].start()
        try:
            with FederationClient(target, **options(tls, "bench")) as client:
                policy = pb.RoundPolicy(rounds=rounds, min_silos=silos, selection=pb.SELECTION_ALL)
                spec = pb.RunSpec(
                    method="none",
                    strategy="fedavg",
                    policy=policy,
                    initial_model=client.put_model(str(folder / "model")),
                )
                client.create_run(spec, "bench")
                opened: dict[int, float] = {}
                seconds: list[float] = []
                accepted = 0
                killed = 0.0
                resumed = None
                for event in client.watch("bench"):
                    kind, now = event.WhichOneof("event"), time.monotonic()
                    if kind == "round_opened":
                        opened[event.round_opened.number], accepted = now, 0
                    elif kind == "accepted":
                        accepted += 1
                        if event.accepted.round == rounds and accepted == silos // 2 and not killed:
                            peak = coordinator.peak
                            moved = coordinator.payload_bytes(tls)
                            coordinator.kill()
                            killed = time.monotonic()
                            coordinator.start()
                            resumed = time.monotonic() - killed
                            kept = len(client.run("bench").round.accepted)
                            hold.value = 0
                    elif kind == "reduced" and len(opened) > WARM_UP and not killed:
                        seconds.append(now - opened[len(opened)])
                done = client.run("bench")
            for worker in workers:
                worker.join(30)
            # The model once from the operator; the last round lacks half of its uploads.
            ideal = size * (1 + 2 * silos * (rounds - 1) + silos + silos // 2)
            phases = [dict(s.seconds) for s in done.history[WARM_UP:-1]]
            return {
                "megabytes": round(size / 1e6, 1),
                "silos": silos,
                "seconds_per_round": sorted(round(s, 3) for s in seconds),
                "median_seconds": round(float(np.median(seconds)), 3),
                "reduce_seconds": round(float(np.median([p["reduce"] for p in phases])), 3),
                "server_peak_mb": round(peak / 1e6),
                "resume_seconds_after_kill": round(resumed or 0.0, 2),
                "updates_kept": f"{kept}/{silos // 2}",
                "payload_over_ideal": round(moved / ideal, 4),
                "status": pb.RunStatus.Name(done.status),
                "chunk_bytes": CHUNK_BYTES,
            }
        finally:
            for worker in workers:
                worker.kill()
            coordinator.stop()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.federated.rounds")
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 100, 200])
    parser.add_argument("--silos", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    configure_logs(as_json=True, level=logging.ERROR)
    figures = []
    for megabytes in given.megabytes:
        for silos in given.silos:
            figures.append(measure(megabytes, silos))
            print(json.dumps(figures[-1]), flush=True)
    if given.out:
        given.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
