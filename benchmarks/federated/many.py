"""Many silos: ``python -m benchmarks.federated.many --silos 100 1000``.

All silos are coroutines of one process, each with a certificate and a connection of its own: they register, wait for
tasks, send heartbeats, download, and answer with a file. The coordinator is a process of its own. Measured:

- seconds per round from opened to reduced, and CPU seconds of the coordinator;
- memory and open files of the coordinator and of the silos' process;
- CPU share of the coordinator while all are connected and nothing happens;
- a silo that took a task of the first round and comes back in the last one: seconds until it is registered, and what
  it is told of its update.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil

from benchmarks.federated.processes import CoordinatorProcess, certificates, options
from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.api.federation.v1 import federation_pb2_grpc
from eoforge.client.federation import FederationClient
from eoforge.logs import configure_logs
from eoforge.storage.chunks import digest_of, file_chunks, file_manifest
from eoforge.storage.tensorfile import write_file

RUN = "many"
AT_ONCE = 32
"""Silos that connect at the same time."""
IDLE_S = 10.0
_OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


class Silos:
    """Light silos of one process.

    Args:
        target: Address of the coordinator.
        tls: Folder of certificates.
        names: Ids of the silos.
        update: File that each sends.
    """

    def __init__(self, target: str, tls: Path, names: list[str], update: Path) -> None:
        self.connected, self.served = 0, 0
        self.held: tuple[str, int] | None = None
        """Silo that keeps its update of the first round to itself and disconnects, and the round."""
        self.failed: list[str] = []
        self._target, self._tls, self._names, self._update = target, tls, names, update
        self._manifest = file_manifest(str(update))
        self._digest = digest_of(self._manifest)
        self._places = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        """All silos, until the run ends."""
        await asyncio.gather(*(self._guarded(name) for name in self._names))

    async def come_back(self) -> dict[str, Any]:
        """Return of the silo that went away: what it is told of its update, and how long that takes."""
        assert self.held is not None
        (name, number), start = self.held, time.perf_counter()
        async with self._channel(name) as channel:
            stub = self._stub(channel)
            await stub.Register(pb.RegisterRequest(samples=1))
            answer = pb.AnswerRequest(run_id=RUN, round=number)
            answer.update.CopyFrom(pb.UpdateAnswer(digest=self._digest, samples=1, steps=1))
            told = pb.Verdict.Name((await stub.Answer(answer)).verdict)
        return {"held_round": number, "told": told, "seconds": round(time.perf_counter() - start, 3)}

    async def _guarded(self, name: str) -> None:
        try:
            await self._silo(name)
        except grpc.aio.AioRpcError as error:
            self.failed.append(f"{name}: {error.code().name} {error.details()}")

    async def _silo(self, name: str) -> None:
        async with self._channel(name) as channel:
            stub = self._stub(channel)
            async with self._places:
                registered = await stub.Register(pb.RegisterRequest(samples=1))
                watch = stub.WatchTasks(pb.WatchTasksRequest())
                self.connected += 1
            beats = asyncio.create_task(self._beat(stub, registered.heartbeat.ToTimedelta().total_seconds()))
            try:
                async for message in watch:
                    task = message.task
                    if task.kind == pb.TASK_KIND_END:
                        return
                    if task.kind == pb.TASK_KIND_TRAIN:
                        if self.held is None:
                            self.held = (name, task.round)
                            return
                        await self._answer(stub, task)
            finally:
                beats.cancel()

    async def _answer(self, stub: Any, task: pb.Task) -> None:
        for item in task.objects:
            chunks = range(len(item.manifest.chunks))
            received = 0
            async for message in stub.Download(
                pb.DownloadRequest(run_id=task.run_id, digest=item.digest, chunks=chunks)
            ):
                received += len(message.chunk.data)
            if received != item.manifest.length:
                raise SystemExit(f"expected {item.manifest.length} bytes of a model; got {received}")
        announced = pb.PrepareUpdateRequest(run_id=task.run_id, round=task.round, manifest=self._manifest)
        missing = (await stub.PrepareUpdate(announced)).missing
        head = pb.PutUpdateRequest(run_id=task.run_id, round=task.round, digest=self._digest)
        messages = []
        for chunk in file_chunks(str(self._update), self._manifest, missing):
            head.chunk.CopyFrom(chunk)
            messages.append(head)
            head = pb.PutUpdateRequest()
        if messages:
            await stub.PutUpdate(iter(messages))
        update = pb.UpdateAnswer(digest=self._digest, samples=1, steps=1)
        await stub.Answer(pb.AnswerRequest(run_id=task.run_id, round=task.round, update=update))
        self.served += 1

    async def _beat(self, stub: Any, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            await stub.Heartbeat(pb.HeartbeatRequest(activity="waiting"))

    def _channel(self, name: str) -> grpc.aio.Channel:
        parts = [(self._tls / file).read_bytes() for file in ("ca.pem", f"{name}.key", f"{name}.pem")]
        return grpc.aio.secure_channel(self._target, grpc.ssl_channel_credentials(*parts), _OWN_CONNECTION)

    def _stub(self, channel: grpc.aio.Channel) -> Any:
        return federation_pb2_grpc.SiloServiceStub(channel)  # type: ignore[no-untyped-call]  # generated


def measure(silos: int, share: float, megabytes: float, rounds: int) -> dict[str, Any]:
    """Figures of one federation, of which ``share`` answers in a round."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("EOFORGE_BENCH_FOLDER")) as temporary:
        folder = Path(temporary)
        names = [f"silo-{i:05d}" for i in range(silos)]
        tls = certificates(folder, names)
        elements = int(megabytes * 1e6 / 4)
        write_file(folder / "model", {"w": np.zeros(elements, np.float32)})
        write_file(folder / "update", {"delta/w": np.full(elements, 1e-3, np.float32)})
        coordinator = CoordinatorProcess(folder, tls)
        process = psutil.Process(coordinator.process.pid)
        idle = usage(process)
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, daemon=True).start()
        try:
            started, cpu = time.monotonic(), cpu_s(process)
            made = Silos(coordinator.target, tls, names, folder / "update")
            running = asyncio.run_coroutine_threadsafe(made.run(), loop)
            with FederationClient(coordinator.target, **options(tls, "bench")) as client:
                while made.connected < silos:
                    if running.done():
                        running.result()
                    if made.failed:
                        raise SystemExit(f"silos failed: {made.failed}")
                    time.sleep(0.05)
                found: dict[str, Any] = {
                    "silos": silos,
                    "share": share,
                    "megabytes": megabytes,
                    "connect": {"s": round(time.monotonic() - started, 1), "cpu_s": round(cpu_s(process) - cpu, 1)},
                    "coordinator_alone": idle,
                    "coordinator_connected": usage(process),
                    "silos_process": usage(psutil.Process()),
                }
                cpu = cpu_s(process)
                time.sleep(IDLE_S)
                found["idle_cpu_share"] = round((cpu_s(process) - cpu) / IDLE_S, 3)
                policy = pb.RoundPolicy(rounds=rounds, min_silos=1, selection=pb.SELECTION_FRACTION)
                policy.fraction, policy.over_selection = share, 0.01  # one more: who went away is not waited for
                policy.missed_quorum = pb.MISSED_QUORUM_FAIL
                policy.deadline.FromSeconds(120)
                model = client.put_model(str(folder / "model"))
                spec = pb.RunSpec(method="none", strategy="fedavg", policy=policy, initial_model=model)
                client.create_run(spec, RUN)
                found |= follow(client, made, loop, rounds, process)
                done = client.run(RUN)
            if done.status != pb.RUN_STATUS_FINISHED or made.failed:
                raise SystemExit(f"{pb.RunStatus.Name(done.status)} {done.failure} {made.failed[:3]}")
            running.result(30)
            found["coordinator_after"] = usage(process)
            found["peak_mb"] = round(coordinator.memory.peak / 1e6)
            found["load"] = round(os.getloadavg()[0], 1)
            return found
        finally:
            coordinator.stop()
            loop.call_soon_threadsafe(loop.stop)


def follow(
    client: FederationClient, silos: Silos, loop: asyncio.AbstractEventLoop, rounds: int, process: psutil.Process
) -> dict[str, Any]:
    """Seconds and CPU seconds of each round; the silo that went away comes back before the last one ends."""
    seconds, cpu, updates = [], [], []
    opened, used, count = 0.0, 0.0, 0
    back: dict[str, Any] = {}
    for event in client.watch(RUN):
        kind = event.WhichOneof("event")
        if kind == "round_opened":
            opened, used, count = time.monotonic(), cpu_s(process), 0
            if event.round_opened.number == rounds:
                back = asyncio.run_coroutine_threadsafe(silos.come_back(), loop).result(60)
        elif kind == "accepted":
            count += 1
        elif kind == "reduced":
            seconds.append(round(time.monotonic() - opened, 2))
            cpu.append(round(cpu_s(process) - used, 2))
            updates.append(count)
    return {"seconds_per_round": seconds, "cpu_s_per_round": cpu, "updates": updates, "came_back": back}


def usage(process: psutil.Process) -> dict[str, int]:
    """Megabytes of memory, open files and threads of a process."""
    with process.oneshot():
        rss = round(process.memory_info().rss / 1e6)
    return {"mb": rss, "files": process.num_fds(), "threads": process.num_threads()}


def cpu_s(process: psutil.Process) -> float:
    """CPU seconds of a process so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.federated.many")
    parser.add_argument("--silos", type=int, nargs="+", default=[100, 1_000])
    parser.add_argument("--share", type=float, default=0.1, help="of the silos that answer in a round")
    parser.add_argument("--megabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    configure_logs(as_json=True, level=logging.ERROR)
    rows = []
    for silos in given.silos:
        rows.append(measure(silos, given.share, given.megabytes, given.rounds))
        print(json.dumps(rows[-1]), flush=True)
    if given.out:
        given.out.write_text(json.dumps({"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
