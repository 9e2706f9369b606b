"""Other engines over the same codes, with the defaults of their projects; they live in an environment of their own."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.scale.archive import queries
from benchmarks.scale.codes import Codes
from benchmarks.scale.engines import K, latency, memory_mb


def lancedb(uri: str, work: Path, truth: Path) -> dict[str, Any]:
    """LanceDB: IVF_FLAT with Hamming distance, as many partitions as ours."""
    import lancedb as peer
    import pyarrow as pa

    codes = _codes(work)
    start, cpu = time.perf_counter(), time.process_time()
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(codes.reshape(-1)), codes.shape[1])
    rows = pa.table({"id": np.arange(len(codes)), "code": vectors})
    table = peer.connect(str(work / "lancedb")).create_table("codes", rows, mode="overwrite")
    partitions = max(1, len(codes) // 4_096)
    table.create_index(
        metric="hamming", vector_column_name="code", index_type="IVF_FLAT", num_partitions=partitions, replace=True
    )
    built = {"build_s": round(time.perf_counter() - start, 1), "build_cpu_s": round(time.process_time() - cpu, 1)}
    distances, asked = np.load(truth), queries()[0]
    searches = {}
    for probes in (1, 2, 4, 8):

        def answer(query: npt.NDArray[np.uint8], probes: int = probes) -> npt.NDArray[Any]:
            wanted = table.search(query.tolist(), vector_column_name="code").distance_type("hamming")
            found: npt.NDArray[Any] = wanted.nprobes(probes).limit(K).to_arrow().column("_distance").to_numpy()
            return found

        searches[f"nprobes {probes}"] = latency(answer, distances, asked)
    return {**built, "partitions": partitions, "memory": memory_mb(), "searches": searches}


def usearch(uri: str, work: Path, truth: Path) -> dict[str, Any]:
    """HNSW of usearch over bits, with its defaults, and larger searches for more recall."""
    from usearch.index import Index, MetricKind, ScalarKind

    codes = _codes(work)
    index = Index(ndim=8 * codes.shape[1], metric=MetricKind.Hamming, dtype=ScalarKind.B1)
    start, cpu = time.perf_counter(), time.process_time()
    index.add(np.arange(len(codes), dtype=np.uint64), codes, threads=int(os.environ.get("OMP_NUM_THREADS", "0")))
    built = {"build_s": round(time.perf_counter() - start, 1), "build_cpu_s": round(time.process_time() - cpu, 1)}
    distances, asked = np.load(truth), queries()[0]
    searches = {}
    for expansion in (64, 256, 1_024):
        index.expansion_search = expansion
        searches[f"expansion {expansion}"] = latency(lambda q: index.search(q, K).distances, distances, asked)
    return {**built, "memory": memory_mb(), "searches": searches}


def milvus(uri: str, work: Path, truth: Path) -> dict[str, Any]:
    """Milvus Lite: binary vectors, BIN_IVF_FLAT."""
    from pymilvus import DataType, MilvusClient

    codes = _codes(work)
    client = MilvusClient(str(work / "milvus.db"))
    schema = client.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("code", DataType.BINARY_VECTOR, dim=8 * codes.shape[1])
    params = client.prepare_index_params()
    lists = max(1, len(codes) // 4_096)
    params.add_index("code", index_type="BIN_IVF_FLAT", metric_type="HAMMING", params={"nlist": lists})
    start, cpu = time.perf_counter(), time.process_time()
    client.create_collection("codes", schema=schema)
    for first in range(0, len(codes), 20_000):
        part = codes[first : first + 20_000]
        client.insert("codes", [{"id": first + i, "code": code.tobytes()} for i, code in enumerate(part)])
    client.create_index("codes", params)
    client.load_collection("codes")
    built = {"build_s": round(time.perf_counter() - start, 1), "build_cpu_s": round(time.process_time() - cpu, 1)}
    distances, asked = np.load(truth), queries()[0]
    searches = {}
    for probes in (8, 32, 128):
        how = {"metric_type": "HAMMING", "params": {"nprobe": probes}}

        def answer(query: npt.NDArray[np.uint8], how: dict[str, Any] = how) -> npt.NDArray[Any]:
            found = client.search("codes", [query.tobytes()], limit=K, search_params=how)
            return np.array([hit["distance"] for hit in found[0]])

        searches[f"nprobe {probes}"] = latency(answer, distances, asked)
    return {**built, "memory": memory_mb(), "searches": searches}


def _codes(work: Path) -> Codes:
    """Codes of the searched sensor, from the filled cache."""
    (path,) = (work / "cache").glob("*/codes-s2.bin")
    found: Codes = np.fromfile(path, np.uint8).reshape(-1, 16)
    return found


PEERS = {"lancedb": lancedb, "usearch": usearch, "milvus": milvus}
