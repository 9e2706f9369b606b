"""Overhead of the compression service over the library call, and its throughput: ``--out FILE``.

A service with one codec runs in a process of its own over loopback; client and server share the machine's cores. The
bare call is the same codec in the client's process, same run, one thread each. Patches are Sentinel-2, all twelve
bands; the codec is not trained, which changes how large streams are and nothing about what is computed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import torch

from benchmarks.codec.samples import kinds, pairs_of, rasters, untrained_bundle
from benchmarks.services.calls import Call, one_by_one, percentiles, process_of, together
from eoforge.api.compression.v1 import compression_pb2 as pb
from eoforge.api.compression.v1 import compression_pb2_grpc
from eoforge.codec.coder import Coder, Rate
from eoforge.methods.codecs import open_coder
from eoforge.methods.rs_jcif.config import Config
from services.compression.rasters import raster_message

PATCHES, QUALITY = 24, 4.0
SEQUENTIAL = 72
CLIENTS = (1, 8)
_TIMEOUT_S = 60.0


def serve(bundle: str, ready: Any) -> None:
    """Runs the service with that codec; the child process's main."""
    from eoforge.logs import configure_logs
    from services.compression.server import build
    from services.compression.settings import CompressionSettings
    from services.compression.state import load

    settings = CompressionSettings(
        bundle_uris=bundle, port=0, rest_port=0, log_level="warning", drain_notice_seconds=0.0
    )
    configure_logs(as_json=True, level=logging.WARNING)

    async def main() -> None:
        server = build(settings, load(settings))
        await server.start()
        ready.put(server.port)
        await asyncio.Event().wait()

    asyncio.run(main())


def bare(call: Callable[[Any], object], items: list[Any]) -> dict[str, float]:
    """Latency of a call without a service."""
    call(items[0])
    times = []
    for item in items:
        start = time.perf_counter()
        call(item)
        times.append(time.perf_counter() - start)
    return percentiles(times)


async def measure(target: str, coder: Coder, patches: int) -> dict[str, Any]:
    """All figures against a running service."""
    kind = kinds()[-1]
    originals = rasters(pairs_of(kind, patches), "s2")
    rate = Rate(quality=QUALITY)
    streams = [coder.compress([raster], rate)[0] for raster in originals]
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = compression_pb2_grpc.CompressionServiceStub(channel)

        def caller(method: Any) -> Call:
            def call(request: Any) -> Awaitable[Any]:
                awaited: Awaitable[Any] = method(request, timeout=_TIMEOUT_S)
                return awaited

            return call

        messages = [raster_message(raster, pb.PIXEL_FORMAT_BANDS)[0] for raster in originals]
        compress = [pb.CompressRequest(raster=message, rate=pb.Rate(quality=QUALITY)) for message in messages]
        calls: dict[str, tuple[Callable[[Any], object], list[Any], Call, list[Any]]] = {
            "Compress": (lambda r: coder.compress([r], rate), originals, caller(stub.Compress), compress),
            "Decompress": (
                lambda s: coder.decompress([s]),
                streams,
                caller(stub.Decompress),
                [pb.DecompressRequest(stream=s) for s in streams],
            ),
            "HashStream": (
                coder.codes,
                streams,
                caller(stub.HashStream),
                [pb.HashStreamRequest(stream=s) for s in streams],
            ),
        }
        out: dict[str, Any] = {"patches": len(originals), "kind": kind, "quality": QUALITY}
        for name, (direct, items, served, requests) in calls.items():
            turns = -(-SEQUENTIAL // len(items))
            alone = bare(direct, items * turns)
            await one_by_one(served, requests)
            through = percentiles(await one_by_one(served, requests * turns))
            out[name] = {
                "bare": alone,
                "service": through,
                "service_over_bare_p50": round(through["p50_ms"] / alone["p50_ms"], 2),
                "service_minus_bare_p50_ms": round(through["p50_ms"] - alone["p50_ms"], 3),
                "load": {str(clients): await together(served, clients, requests) for clients in CLIENTS},
            }
            print(json.dumps({name: out[name]}), flush=True)
        return out


def main() -> None:
    """Starts the service, measures, prints and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--patches", type=int, default=PATCHES, help="different patches, at most 24 real ones")
    arguments = parser.parse_args()
    # One thread for the codec on both sides: on a busy machine, threads that wait for each other measure the waiting.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        bundle = untrained_bundle(folder, pairs_of("synthetic", 16), Config.tiny())
        with process_of(serve, bundle.uri) as address:
            figures = asyncio.run(measure(address(), open_coder([bundle.uri]), arguments.patches))
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
