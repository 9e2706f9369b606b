"""One engine over one archive, in a process of its own: build time, memory, recall, latency of one query at a time."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.scale.archive import queries
from benchmarks.scale.codes import Codes
from eoforge.data.search_filter import SearchFilter
from eoforge.errors import UsageError
from eoforge.index.cache.folder import IndexCache
from eoforge.index.catalog import IndexSnapshot
from eoforge.storage.addresses import TableRef
from eoforge.storage.objects import ObjectStore
from eoforge.storage.seaweed import seaweedfs

K = 10
RECALLS = (0.9, 0.95, 0.99)
FILTERS = {
    "country (1 of 8)": SearchFilter(countries=("Finland",)),
    "one label": SearchFilter(labels_any=("Pastures",)),
    "a box of 0.5 degrees": SearchFilter(bbox=(0.0, 35.5, 0.5, 36.0)),
    "one day": SearchFilter(acquired_from=None),
}
Answer = Callable[[npt.NDArray[np.uint8]], npt.NDArray[Any]]
"""From a query ``[16]`` to the distances of its hits."""


def memory_mb() -> dict[str, float]:
    """Memory of this process: of its own, and of files that are mapped (which the system may drop)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own, mapped, peak = (int(status[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile", "VmHWM"))
    return {"own_mb": round(own, 1), "mapped_mb": round(mapped, 1), "peak_mb": round(peak, 1)}


def latency(answer: Answer, exact: npt.NDArray[np.int32], asked: Codes) -> dict[str, float]:
    """Milliseconds of one query at a time, and recall@10: hits that are not farther than the tenth exact one."""
    for query in asked[:20]:
        answer(query)
    times, good, cpu = [], 0, time.process_time()
    for query, distances in zip(asked, exact, strict=True):
        start = time.perf_counter()
        found = answer(query)
        times.append(1e3 * (time.perf_counter() - start))
        good += int(np.count_nonzero(np.asarray(found)[:K] <= distances[-1]))
    return {
        "recall": round(good / exact.size, 4),
        "cpu_ms": round(1e3 * (time.process_time() - cpu) / len(times), 3),
        "p50_ms": round(float(np.percentile(times, 50)), 3),
        "p99_ms": round(float(np.percentile(times, 99)), 3),
    }


def exact(uri: str, work: Path, truth: Path) -> dict[str, Any]:
    """Exact search from the local cache; also writes the exact distances for the other engines."""
    cache = IndexCache(work / "cache", limit=1 << 40)
    before = memory_mb()
    start, cpu = time.perf_counter(), time.process_time()
    snapshot = IndexSnapshot.open(TableRef(uri), store=cache)
    filled = {"fill_s": round(time.perf_counter() - start, 1), "fill_cpu_s": round(time.process_time() - cpu, 1)}
    asked = queries()[0]
    found = snapshot.search("s2", asked, K)
    np.save(truth, found.distances)
    ways: dict[str, Any] = {
        "all": latency(lambda q: snapshot.search("s2", q[None], K).distances[0], found.distances, asked)
    }
    day = snapshot.metadata(np.array([len(snapshot) // 2])).column("acquired_s2")[0].as_py()
    filters = FILTERS | {
        "one day": SearchFilter(acquired_from=day, acquired_until=day.replace(hour=23, minute=59, second=59))
    }
    for name, wanted in filters.items():
        hits = snapshot.search("s2", asked, K, wanted)
        way = latency(
            lambda q, w=wanted: snapshot.search("s2", q[None], K, w).distances[0],
            hits.distances,
            asked[: len(hits.distances)],
        )
        ways[name] = {"candidates": hits.candidates, **{n: way[n] for n in ("cpu_ms", "p50_ms", "p99_ms")}}
    rows = np.random.default_rng(0).integers(0, len(snapshot), (len(asked), K))
    start = time.perf_counter()
    for some in rows:
        snapshot.metadata(some)
    metadata_ms = round(1e3 * (time.perf_counter() - start) / len(rows), 3)
    resident = sum(array.nbytes for s in snapshot.segments for array in (*s.codes.values(), s.place))
    return {
        **filled,
        "memory_before": before,
        "memory": memory_mb(),
        "bytes_per_patch": round(resident / len(snapshot), 1),
        "disk_mb": disk_mb(work / "cache"),
        "metadata_of_ten_hits_ms": metadata_ms,
        "searches": ways,
    }


def reopened(uri: str, work: Path, truth: Path) -> dict[str, Any]:
    """Opening from a cache that is already filled, as every process but the first does."""
    start = time.perf_counter()
    snapshot = IndexSnapshot.open(TableRef(uri), store=IndexCache(work / "cache", limit=1 << 40))
    opened = round(time.perf_counter() - start, 2)
    return {"open_s": opened, "patches": len(snapshot), "memory": memory_mb()}


def ivf(uri: str, work: Path, truth: Path) -> dict[str, Any]:
    """Lance's IVF on the local disk."""
    return _ivf(uri, truth) | {"disk_mb": disk_mb(Path(uri) / "_indices")}


def ivf_s3(uri: str, work: Path, truth: Path) -> dict[str, Any]:
    """Lance's IVF on an S3 server of this machine, SeaweedFS; only its client is measured."""
    with tempfile.TemporaryDirectory(dir=work) as folder_of_server, seaweedfs(folder_of_server) as server:
        os.environ.update(server.env)
        target = server.uri("codes.lance")
        store, folder = ObjectStore(target), Path(uri)
        first = max(path.name for path in (folder / "_versions").glob("*.manifest"))  # names count downwards
        for path in (*folder.glob("data/*"), folder / "_versions" / first):
            store.put(str(path.relative_to(folder)), path.read_bytes())
        return _ivf(target, truth)


def _ivf(uri: str, truth: Path) -> dict[str, Any]:
    from eoforge.index.ivf.build import build_ivf
    from eoforge.index.ivf.search import IvfSnapshot

    start, cpu = time.perf_counter(), time.process_time()
    info = build_ivf(uri)
    built = {"build_s": round(time.perf_counter() - start, 1), "build_cpu_s": round(time.process_time() - cpu, 1)}
    peak = memory_mb()["peak_mb"]
    distances, asked = np.load(truth), queries()[0]
    start = time.perf_counter()
    snapshot = IvfSnapshot.open(TableRef(uri))
    snapshot.search("s2", asked[:1], K, None, 0.9)
    cold_ms = round(1e3 * (time.perf_counter() - start), 1)
    searches = {}
    for wanted in RECALLS:
        try:
            probes = info.probes_for(wanted)
        except UsageError:
            continue
        found = latency(lambda q, r=wanted: snapshot.search("s2", q[None], K, None, r).distances[0], distances, asked)
        searches[f"min_recall {wanted}"] = {"partitions": probes, "stated": info.recall[probes], **found}
    few = asked[:10]
    searches["exact scan"] = latency(lambda q: snapshot.search("s2", q[None], K).distances[0], distances[:10], few)
    rows = snapshot.search("s2", asked[:1], K, None, 0.9).rows[0]
    start = time.perf_counter()
    for _ in range(20):
        snapshot.metadata(rows)
    return {
        **built,
        "build_peak_mb": peak,
        "partitions": info.partitions,
        "recall_by_partitions": info.recall,
        "memory": memory_mb(),
        "open_and_first_query_ms": cold_ms,
        "metadata_of_ten_hits_ms": round(1e3 * (time.perf_counter() - start) / 20, 2),
        "searches": searches,
    }


def disk_mb(path: Path) -> float:
    """Size of a file or folder."""
    done = subprocess.run(["du", "-sk", str(path)], capture_output=True, text=True, check=True)
    return round(int(done.stdout.split()[0]) / 1024, 1)


ENGINES = {
    "exact": exact,
    "reopened": reopened,
    "ivf s3": ivf_s3,  # before the local one, whose index it must not find
    "ivf": ivf,
}
