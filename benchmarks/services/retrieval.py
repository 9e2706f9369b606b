"""Overhead of the retrieval service over the index call, and its throughput: ``--out FILE``.

An index of the archive's full size (549,488 patches, random codes) is served by a process of its own over loopback;
client and server share the machine's cores. The bare call is the same search in the client's process, same run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa

from benchmarks.services.calls import one_by_one, percentiles, process_of, together
from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.api.retrieval.v1 import retrieval_pb2_grpc
from eoforge.data.search_filter import SearchFilter
from eoforge.data.tables.schema import METADATA_FIELDS
from eoforge.index.cache.segment import Segment, SegmentWriter
from eoforge.index.catalog import IndexSnapshot
from eoforge.index.code_table import CodeTableInfo
from eoforge.storage.addresses import TableRef

PATCHES, BITS, K = 549_488, 128, 10
SEQUENTIAL = 300
CLIENTS = (1, 8, 64)


def write(folder: Path, patches: int) -> None:
    """Segment with random codes and plausible metadata."""
    rng = np.random.Generator(np.random.Philox(key=1))
    codes = {m: rng.integers(0, 256, (patches, BITS // 8), dtype=np.uint8) for m in ("s1", "s2")}
    number = np.arange(patches)
    values: dict[str, Any] = {
        "patch_id": [f"S2A_MSIL2A_20180101T000000_N9999_R001_T35VNK_{i:07d}" for i in number],
        "s1_name": [f"S1A_IW_GRDH_1SDV_20180101T000000_35VNK_{i:07d}" for i in number],
        "s2v1_name": [f"S2A_MSIL2A_20180101T000000_{i:07d}" for i in number],
        "split": np.array(["train", "validation", "test"])[number % 3],
        "country": np.array(["Finland", "Portugal", "Austria", "Ireland"])[number % 4],
        "labels": pa.ListArray.from_arrays(
            np.arange(0, 2 * patches + 1, 2, dtype=np.int32),
            pa.array(np.array(["Arable land", "Mixed forest"])[np.arange(2 * patches) % 2]),
        ),
        "label_mask": np.full(patches, (1 << 2) | (1 << 10), np.uint32),
        "mgrs_tile": np.full(patches, "35VNK"),
        "contains_seasonal_snow": number % 10 == 0,
        "contains_cloud_or_shadow": number % 7 == 0,
        "acquired_s2": pa.array(number * 1_000_000 + 1_500_000_000_000_000).cast(pa.timestamp("us", tz="UTC")),
        "acquired_s1": pa.array(number * 1_000_000 + 1_500_000_000_000_000).cast(pa.timestamp("us", tz="UTC")),
    }
    columns = {
        f.name: pa.array(values[f.name], type=f.type)
        if f.name in values
        else pa.array(number % 90, type=pa.int64()).cast(f.type)
        for f in METADATA_FIELDS
    }
    with SegmentWriter(folder, BITS, ("s1", "s2"), limit=1 << 40) as writer:
        writer.add(pa.table(columns), number, codes)
        writer.finish()


def snapshot(folder: Path) -> IndexSnapshot:
    """Index of the segment, mapped into memory as the service maps its local cache."""
    info = CodeTableInfo("benchmark", "none", "none", TableRef("none", 1), bits=BITS)
    return IndexSnapshot(TableRef("none", 1), info, [Segment.open(folder)])


def serve(folder: Path, ready: Any) -> None:
    """Runs the service over that index; the child process's main."""
    from eoforge.logs import configure_logs
    from services.retrieval.server import build
    from services.retrieval.settings import RetrievalSettings
    from services.retrieval.state import IndexHolder, Served

    held = snapshot(folder)

    class Fixed(IndexHolder):
        """Index holder of a given index; searches by patch id need neither encoder nor patches."""

        async def start(self) -> None:
            nothing: Any = None
            self._replace(Served(held, nothing, nothing, nothing))

    settings = RetrievalSettings(codes_uri="none", port=0, rest_port=0, log_level="warning", drain_notice_seconds=0)
    configure_logs(as_json=True, level=logging.WARNING)

    async def main() -> None:
        server = build(settings, Fixed(TableRef("none", 1), None, 3600.0))
        await server.start()
        ready.put(server.port)
        await asyncio.Event().wait()

    asyncio.run(main())


def bare(index: IndexSnapshot, rows: list[int], wanted: SearchFilter | None) -> list[float]:
    """Seconds per bare index call, with the filter where there is one."""
    times = []
    for row in rows:
        start = time.perf_counter()
        index.search("s2", index.code_of_row(row, "s1")[None], K, wanted)
        times.append(time.perf_counter() - start)
    return times


async def measure(target: str, index: IndexSnapshot) -> dict[str, Any]:
    """All figures against a running service."""
    rng = np.random.Generator(np.random.Philox(key=2))
    rows = rng.integers(0, len(index), SEQUENTIAL).tolist()
    ids = index.metadata(np.array(rows)).column("patch_id").to_pylist()
    names = dict(zip(rows, ids, strict=True))
    chosen = {"all": (None, None), "country": (SearchFilter(countries=("Finland",)), pb.Filter(countries=["Finland"]))}
    out: dict[str, Any] = {"patches": len(index), "bits": BITS, "k": K, "overhead": {}, "load": {}}
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = retrieval_pb2_grpc.RetrievalServiceStub(channel)

        def caller(wanted: pb.Filter | None) -> Callable[[int], Awaitable[Any]]:
            def call(row: int) -> Awaitable[Any]:
                request = pb.SearchRequest(
                    patch_id=names[row],
                    query_modality=pb.MODALITY_S1,
                    target_modality=pb.MODALITY_S2,
                    page_size=K,
                    filter=wanted,
                )
                awaited: Awaitable[Any] = stub.Search(request, timeout=60)
                return awaited

            return call

        for name, (wanted, message) in chosen.items():
            await one_by_one(caller(message), rows[:20])
            direct = percentiles(bare(index, rows, wanted))
            served = percentiles(await one_by_one(caller(message), rows))
            out["overhead"][name] = {
                "bare": direct,
                "service": served,
                "service_over_bare_p50": round(served["p50_ms"] / direct["p50_ms"], 2),
                "service_minus_bare_p50_ms": round(served["p50_ms"] - direct["p50_ms"], 3),
            }
        for clients in CLIENTS:
            out["load"][str(clients)] = await together(caller(None), clients, rows)
    return out


def main() -> None:
    """Starts the service, measures, prints and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--patches", type=int, default=PATCHES, help="size of the index")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        segment = Path(folder) / "segment"
        write(segment, arguments.patches)
        with process_of(serve, segment) as address:
            figures = asyncio.run(measure(address(), snapshot(segment)))
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
