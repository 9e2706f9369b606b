"""Soak with random kills: ``python -m benchmarks.federated.soak --rounds 200 --silos 8``, or 20 for a trial.

The coordinator and the silos are processes; one of them is killed every few rounds and started again. Every silo
records each acknowledged answer. Checked at the end, with exit status 1 for a failure:

- every acknowledged update is in the sealed set of its round, or counted later as a late one;
- the run has finished with all its rounds, and no update was accepted twice;
- memory of the coordinator, and its disk beyond the model that it keeps of every round, are where they were after the
  first quarter of the rounds.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.federated.processes import CoordinatorProcess, certificates, options
from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.client.federation import FederationClient
from eoforge.client.silo import SiloClient
from eoforge.federated.silo.silo import Silo
from eoforge.federated.strategy import LocalResult, Task
from eoforge.logs import configure_logs
from eoforge.storage.tensorfile import write_file

ELEMENTS = 1 << 18
MODEL_MB = 4 * ELEMENTS / 1e6
COORDINATORS = 0.2
"""Share of the coordinator among the kills."""
LONGEST_PAUSE_S = 1.0
"""Longest time from the end of a round to a kill, which falls into the next round."""
SETTLED_S = 3.0
"""Time for which a restarted coordinator still loads its state; its memory is not sampled."""
MORE_MEMORY_MB, MORE_DISK_MB = 40.0, 40.0
"""Growth after the first quarter that does not count as a leak: journal, allocator, a round more or less on disk."""


class ConstantTrainer:
    """Trainer that returns constant deltas."""

    def train(self, task: Task, state: Any) -> LocalResult:
        deltas = {n.replace("model/", "delta/"): np.full(t.shape, 1e-3, t.dtype) for n, t in task.tensors.items()}
        return LocalResult(deltas, 1, 1)

    def evaluate(self, task: Task, state: Any) -> dict[str, float]:
        return {}


class RecordingClient(SiloClient):
    """Client that records every acknowledgement before the silo acts on it."""

    notes: Path

    def answer(self, run_id: str, number: int, **answer: Any) -> pb.AnswerResponse:
        response = super().answer(run_id, number, **answer)
        if "update" in answer:
            line = json.dumps({"round": number, "verdict": pb.Verdict.Name(response.verdict)}) + "\n"
            with self.notes.open("a") as file:
                file.write(line)
        return response


def silo(target: str, tls: Path, name: str, folder: Path) -> None:
    """Process of one silo, as in production."""
    configure_logs(as_json=True, level=logging.ERROR)
    with RecordingClient(target, **options(tls, name)) as client:
        client.notes = folder / f"{name}.acknowledged"
        Silo(client, lambda _: ConstantTrainer(), folder / name, samples=1).run(until_end_of="soak")  # type: ignore[arg-type]


class RandomKills(threading.Thread):
    """Random kills of processes, one every few rounds, each with a restart; samples memory after every round.

    Kills are counted in rounds, not in seconds: on a slow machine silos would else be killed before they have started.
    """

    def __init__(
        self, coordinator: CoordinatorProcess, start_silo: Any, names: list[str], per_kill: int, seed: int
    ) -> None:
        super().__init__(daemon=True)
        self.counts: Counter[str] = Counter()
        self.memory: list[float] = []
        self.running = {name: start_silo(name) for name in names}
        self._coordinator, self._start_silo, self._names = coordinator, start_silo, names
        self._per_kill, self._chance, self._born = per_kill, random.Random(seed), time.monotonic()
        self._rounds = threading.Semaphore(0)
        self._over = False

    def round_closed(self) -> None:
        """Counts a round that was closed."""
        if time.monotonic() - self._born > SETTLED_S:
            self.memory.append(self._coordinator.memory.now() / 1e6)
        self._rounds.release()

    def run(self) -> None:
        while True:
            for _ in range(self._chance.randint(1, 2 * self._per_kill - 1)):
                self._rounds.acquire()
            time.sleep(self._chance.uniform(0, LONGEST_PAUSE_S))
            if self._over:
                return
            self._kill()

    def _kill(self) -> None:
        if self._chance.random() < COORDINATORS:
            self._coordinator.kill()
            self._coordinator.start()
            self._born = time.monotonic()
            self.counts["coordinator"] += 1
            return
        name = self._chance.choice(self._names)
        self.running[name].kill()
        self.running[name].join()
        self.running[name] = self._start_silo(name)
        self.counts["silo"] += 1

    def stop(self) -> None:
        """Ends the kills; silos continue."""
        self._over = True
        self._rounds.release(2 * self._per_kill)
        self.join()


def soak(rounds: int, silos: int, per_kill: int, seed: int) -> dict[str, Any]:
    """Runs the soak and returns its figures; ``lost`` and ``wrong`` are empty without a failure."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("EOFORGE_BENCH_FOLDER")) as temporary:
        folder = Path(temporary)
        names = [f"silo-{i:02d}" for i in range(silos)]
        tls = certificates(folder, names)
        write_file(folder / "model", {"w": np.zeros(ELEMENTS, np.float32)})
        coordinator = CoordinatorProcess(folder, tls)
        context = multiprocessing.get_context("spawn")

        def start_silo(name: str) -> Any:
            process = context.Process(target=silo, args=(coordinator.target, tls, name, folder), daemon=True)
            process.start()
            return process

        disk: list[float] = []
        history: list[pb.RoundSummary] = []  # by events: GetRun has the last hundred rounds
        accepted: Counter[tuple[str, int]] = Counter()
        kills = RandomKills(coordinator, start_silo, names, per_kill, seed)
        try:
            with FederationClient(coordinator.target, **options(tls, "bench")) as client:
                policy = pb.RoundPolicy(rounds=rounds, min_silos=silos, selection=pb.SELECTION_ALL)
                spec = pb.RunSpec(method="none", strategy="fedavg", policy=policy)
                spec.initial_model.CopyFrom(client.put_model(str(folder / "model")))
                client.create_run(spec, "soak")
                begun = time.monotonic()
                kills.start()
                for event in client.watch("soak"):
                    kind = event.WhichOneof("event")
                    if kind == "accepted":
                        accepted[event.accepted.silo, event.accepted.round] += 1
                    elif kind == "round_closed":
                        kills.round_closed()
                        history.append(event.round_closed.summary)
                        disk.append(_megabytes(folder / "store") - (len(disk) + 1) * MODEL_MB)
                        _print_progress(len(disk), rounds, time.monotonic() - begun, disk[-1], kills)
                seconds = time.monotonic() - begun
                run = client.run("soak")
        finally:
            if kills.is_alive():
                kills.stop()
            for process in kills.running.values():
                process.kill()
            coordinator.stop()
        acknowledged = {name: _notes(folder / f"{name}.acknowledged") for name in names}
        figures = {
            "rounds": len(history),
            "status": pb.RunStatus.Name(run.status),
            "acknowledged": sum(map(len, acknowledged.values())),
            "sealed": sum(len(s.silos) for s in history),
            "kills": dict(kills.counts),
            "memory_mb": _quarters(kills.memory),
            "disk_beyond_models_mb": _quarters(disk),
            "seconds": round(seconds, 1),
            "load": round(os.getloadavg()[0], 1),
            "lost": _lost_updates(history, acknowledged),
        }
        twice = [key for key, count in accepted.items() if count > 1]
        return figures | {"wrong": _problems(figures, rounds, twice, _unacknowledged(history, acknowledged))}


def _lost_updates(history: list[pb.RoundSummary], acknowledged: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Updates that were acknowledged and are in no sealed set."""
    sealed = {summary.number: set(summary.silos) for summary in history}
    late = {(silo, number) for summary in history for silo, number in summary.late.items()}
    return [
        f"{name}, round {note['round']}: {note['verdict']}"
        for name, notes in acknowledged.items()
        for note in notes
        if note["verdict"] in ("VERDICT_ACCEPTED", "VERDICT_FOLDED")
        and name not in sealed.get(note["round"], ())
        and (name, note["round"]) not in late
    ]


def _problems(figures: dict[str, Any], rounds: int, twice: list[Any], unacknowledged: list[str]) -> list[str]:
    found = []
    if figures["status"] != "RUN_STATUS_FINISHED" or figures["rounds"] != rounds:
        found.append(f"{figures['rounds']} of {rounds} rounds, {figures['status']}")
    if twice:
        found.append(f"accepted twice: {twice[:3]}")
    if unacknowledged:
        found.append(f"counted without an acknowledgement: {unacknowledged[:3]}")
    for name, more in (("memory_mb", MORE_MEMORY_MB), ("disk_beyond_models_mb", MORE_DISK_MB)):
        first, *_, last = figures[name]
        if last > first + more:
            found.append(f"{name} grew from {first} to {last}")
    return found


def _unacknowledged(history: list[pb.RoundSummary], acknowledged: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Updates in sealed sets that were not acknowledged.

    A silo may die between an acknowledgement and its record: then it answers again, unless the run has ended.
    """
    acknowledged_pairs = {(name, note["round"]) for name, notes in acknowledged.items() for note in notes}
    pairs = ((name, summary.number) for summary in history[:-1] for name in summary.silos)
    return [f"{name}, round {number}" for name, number in pairs if (name, number) not in acknowledged_pairs]


def _quarters(values: list[float]) -> list[float]:
    """Medians of the second, third and fourth quarter; the first quarter fills caches."""
    quarter = max(1, len(values) // 4)
    parts = [values[i * quarter : (i + 1) * quarter] or values[-1:] for i in (1, 2, 3)]
    return [round(statistics.median(part), 1) for part in parts if part]


def _megabytes(folder: Path) -> float:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue  # collected meanwhile
    return total / 1e6


def _notes(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _print_progress(done: int, rounds: int, seconds: float, disk: float, kills: RandomKills) -> None:
    if done % max(1, rounds // 10) == 0:
        memory = kills.memory[-1] if kills.memory else 0
        print(
            f"round {done}: {seconds:.0f} s, {disk:.0f} MB on disk beyond models, {memory:.0f} MB in memory", flush=True
        )


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.federated.soak")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--silos", type=int, default=8)
    parser.add_argument("--rounds-per-kill", type=int, default=3, help="on average")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    configure_logs(as_json=True, level=logging.ERROR)
    found = soak(given.rounds, given.silos, given.rounds_per_kill, given.seed)
    print(json.dumps(found, indent=2))
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if found["lost"] or found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
