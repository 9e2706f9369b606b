"""Retrieval service of the demo: start in its own process, and queries over gRPC."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eoforge.errors import EoforgeError, NotFound

if TYPE_CHECKING:
    from eoforge.client import Hit, IndexInfo, Patch, RetrievalClient, SearchFilter

READY_S = 120.0
STOP_S = 30.0
QUERIES_PER_DIRECTION = 4
HITS = 6
TIMED_QUERIES = 100


@dataclass(frozen=True)
class Answer:
    """Answer to one query: query patch, modalities, filter, hits and wall time."""

    query: Patch
    source: str
    target: str
    condition: str
    hits: list[Hit]
    milliseconds: float


@dataclass(frozen=True)
class Answers:
    """Answers of the service."""

    index: IndexInfo
    answers: list[Answer]
    search_ms: list[float]
    """Wall time of single searches by patch id, measured by the client."""


class ServiceFailed(EoforgeError):
    """Failure of the service to start."""


@contextmanager
def running_service(codes: str, log: Path) -> Iterator[str]:
    """Process ``eoforge serve retrieval`` on the loopback address during the block; yields ``HOST:PORT``.

    Raises:
        ServiceFailed: The process ended, or was not ready in time; the message holds the end of its log.
    """
    from eoforge.storage.seaweed import free_ports

    port, rest_port = free_ports(2)
    command = [sys.executable, "-m", "eoforge.cli", "serve", "retrieval", "--codes", codes]
    command += ["--host", "127.0.0.1", "--port", str(port), "--rest-port", str(rest_port)]
    with log.open("wb") as sink, subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT) as process:
        try:
            _wait_ready(process, f"127.0.0.1:{port}", log)
            yield f"127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    from eoforge.client import RetrievalClient

    deadline = time.monotonic() + READY_S
    with RetrievalClient(address) as client:
        while time.monotonic() < deadline and process.poll() is None:
            if client.wait_connected(1.0):
                return
    tail = log.read_text(errors="replace")[-2000:]
    state = (
        f"ended with {process.returncode}" if process.poll() is not None else f"was not ready within {READY_S:.0f} s"
    )
    raise ServiceFailed(f"the retrieval service {state}; the end of {log}:\n{tail}")


def query_service(address: str, seed: int) -> Answers:
    """Answers to queries in both directions, with and without a filter, and times of searches by patch id."""
    from eoforge.client import RetrievalClient, SearchFilter

    with RetrievalClient(address) as client:
        (index,) = client.indexes()
        pool = _query_pool(client, index, seed)
        answers = []
        for source, target in (("s1", "s2"), ("s2", "s1")):
            for patch_id in pool[:QUERIES_PER_DIRECTION]:
                answers.append(_answer(client, patch_id, source, target, SearchFilter(), "whole archive"))
        query = client.get_patch(pool[0])
        country = SearchFilter(countries=(query.info.country,), labels_any=query.info.labels[:1])
        condition = f"{query.info.country}, {query.info.labels[0]}"
        answers.append(_answer(client, pool[0], "s1", "s2", country, condition))
        times = []
        for i in range(TIMED_QUERIES):
            start = time.perf_counter()
            client.search(patch_id=pool[i % len(pool)], source="s1", target="s2", k=10)
            times.append((time.perf_counter() - start) * 1e3)
    return Answers(index, answers, times)


def _query_pool(client: RetrievalClient, index: IndexInfo, seed: int) -> list[str]:
    """Query patches: for each class one patch with its label, from the test split if possible.

    Raises:
        NotFound: The index is empty.
    """
    from eoforge.client import SearchFilter
    from eoforge.data.labels import CLASSES

    rng = np.random.Generator(np.random.Philox(key=seed))
    chosen: list[str] = []
    for splits in (("test",), ()):
        for label in rng.permutation(CLASSES):
            code = rng.integers(0, 256, index.bits // 8, dtype=np.uint8).tobytes()
            search_filter = SearchFilter(splits=splits, labels_any=(str(label),))
            chosen += [h.patch_id for h in client.search(code=code, target="s2", k=1, filter=search_filter)]
        if chosen:
            return list(dict.fromkeys(chosen))
    raise NotFound("the index holds no patch; is the archive empty?")


def _answer(
    client: RetrievalClient, patch_id: str, source: str, target: str, search_filter: SearchFilter, condition: str
) -> Answer:
    start = time.perf_counter()
    hits = client.search(patch_id=patch_id, source=source, target=target, k=HITS, filter=search_filter, thumbnails=True)
    milliseconds = (time.perf_counter() - start) * 1e3
    return Answer(client.get_patch(patch_id, thumbnails=True), source, target, condition, hits, milliseconds)
