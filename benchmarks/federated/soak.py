"""Many rounds with random kills: ``python -m benchmarks.federated.soak --rounds 200 --silos 8``.

The coordinator and the silos are processes; one of them is killed every few seconds and started again. At the
end every round must be there with every silo in it, nothing accepted may have been asked for again, and the
coordinator's memory must be where it was after the first rounds.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.federated.rounds import Coordinator, options
from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.client_federation import FederationClient, SiloClient
from eoforge.federated.ca import Authority
from eoforge.federated.silo import Silo
from eoforge.federated.strategy import LocalResult, Task
from eoforge.federated.tensorfile import write_file
from eoforge.logs import configure_logs

ELEMENTS = 1 << 20


class Small:
    """Trains nothing for a moment."""

    def train(self, task: Task, state: Any) -> LocalResult:
        deltas = {n.replace("model/", "delta/"): np.full(t.shape, 1e-3, t.dtype) for n, t in task.tensors.items()}
        return LocalResult(deltas, 1, 1)

    def evaluate(self, task: Task, state: Any) -> dict[str, float]:
        return {}


def silo(target: str, tls: Path, name: str, folder: Path) -> None:
    """One silo, as it runs in production."""
    configure_logs(as_json=True, level=logging.ERROR)
    with SiloClient(target, **options(tls, name)) as client:
        Silo(client, lambda _: Small(), folder / name, samples=1).run(until_end_of="soak")


def soak(rounds: int, silos: int, every: float, seed: int) -> dict[str, Any]:
    """Runs it and returns what was found."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tls = folder / "tls"
        authority = Authority.create(folder / "ca")
        authority.issue("server", "coordinator", tls, hosts=["127.0.0.1"])
        authority.issue("operator", "soak", tls)
        names = [f"silo-{i:02d}" for i in range(silos)]
        for name in names:
            authority.issue("silo", name, tls)
        write_file(folder / "model", {"w": np.zeros(ELEMENTS, np.float32)})
        coordinator = Coordinator(folder, tls)
        target = coordinator.start()
        context = multiprocessing.get_context("spawn")

        def begin(name: str) -> Any:
            process = context.Process(target=silo, args=(target, tls, name, folder))
            process.start()
            return process

        running = {name: begin(name) for name in names}
        over, kills, memory = threading.Event(), {"coordinator": 0, "silo": 0}, []

        def disturb() -> None:
            while not over.wait(chance.uniform(0.5, 1.5) * every):
                memory.append(psutil.Process(coordinator.process.pid).memory_info().rss)
                if chance.random() < 0.2:
                    coordinator.kill()
                    coordinator.start()
                    kills["coordinator"] += 1
                else:
                    name = chance.choice(names)
                    running[name].kill()
                    running[name].join()
                    running[name] = begin(name)
                    kills["silo"] += 1

        with FederationClient(target, **options(tls, "soak")) as client:
            policy = pb.RoundPolicy(rounds=rounds, min_silos=silos, selection=pb.SELECTION_ALL)
            spec = pb.RunSpec(method="none", strategy="fedavg", policy=policy)
            spec.initial_model.CopyFrom(client.put_model(str(folder / "model")))
            client.create_run(spec, "soak")
            thread = threading.Thread(target=disturb)
            begun = time.monotonic()
            thread.start()
            accepted = sum(event.WhichOneof("event") == "accepted" for event in client.watch("soak"))
            seconds = time.monotonic() - begun
            over.set()
            thread.join()
            run = client.run("soak")
        for process in running.values():
            process.kill()
        coordinator.stop()
        return {
            "rounds": len(run.history),
            "rounds_with_every_silo": sum(list(s.silos) == names for s in run.history),
            "accepted": accepted,
            "expected": rounds * silos,
            "kills": kills,
            "memory_mb_first": round(memory[0] / 1e6) if memory else None,
            "memory_mb_last": round(memory[-1] / 1e6) if memory else None,
            "seconds": round(seconds, 1),
            "status": pb.RunStatus.Name(run.status),
        }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.federated.soak")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--silos", type=int, default=8)
    parser.add_argument("--kill-every", type=float, default=5.0, help="seconds, on average")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    configure_logs(as_json=True, level=logging.ERROR)
    found = soak(given.rounds, given.silos, given.kill_every, given.seed)
    print(json.dumps(found, indent=2))
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
