"""Overhead of the prediction service over the library call, and its throughput: ``--out FILE``.

A service with one bundle runs in a process of its own over loopback; client and server share the machine's cores. The
bare call is the same predictor in the client's process, same run, one thread each. Requests hold one patch of both
sensors. The networks are not trained, which changes nothing about what is computed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import tempfile
import time
from collections.abc import Awaitable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import torch
from kserve import InferInput, InferRequest
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as oip_grpc

from benchmarks.services.calls import one_by_one, percentiles, process_of, together
from eoforge.bundle import Bundle, load_bundle, write_bundle
from eoforge.data.labels import CLASSES
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.methods.prediction import open_predictor
from eoforge.methods.reben.config import Config
from eoforge.methods.reben.method import facts_of
from eoforge.methods.reben.model import build as build_network
from eoforge.nn.build import seeded
from services._runtime.oip.tensors import DATATYPES

PATCHES, SEQUENTIAL = 24, 48
CLIENTS = (1, 8, 64)
BACKBONES = ("tiny_bn", "resnet50")
COLUMNS = ("s2_10m", "s2_20m", "s1")
_TIMEOUT_S = 120.0


def untrained_bundle(runs: str, config: Config, **changes: Any) -> Bundle:
    """A bundle of ``reben`` with initial weights."""
    network = seeded(lambda: build_network(config), config.seed)
    bands = config.sensor_bands
    names = [band for one in bands.values() for band in one]
    facts = {
        "method": "reben",
        "config": asdict(config),
        "bands": {sensor: list(one) for sensor, one in bands.items()},
        "normalisation": {band: [-15.0, 5.0] if band[0] == "V" else [1500.0, 1000.0] for band in names},
        "seed": config.seed,
        "patches": None,
        "code_revision": "none",
        "calibration": {"temperature": 1.5, "thresholds": [0.5] * len(CLASSES)},
        **facts_of(config),
        **changes,
    }
    return write_bundle(runs, weights=network.state_dict(), config=facts, metrics={}, readme="untrained")


def serve(bundle: str, ready: Any) -> None:
    """Runs the service with that bundle; the child process's main."""
    from eoforge.logs import configure_logs
    from services.prediction.server import build
    from services.prediction.settings import PredictionSettings
    from services.prediction.state import load

    torch.set_num_threads(1)
    settings = PredictionSettings(
        bundle_uris=bundle, port=0, rest_port=0, log_level="warning", drain_notice_seconds=0.0
    )
    configure_logs(as_json=True, level=logging.WARNING)

    async def main() -> None:
        server = build(settings, load(settings))
        await server.start()
        ready.put(server.port)
        await asyncio.Event().wait()

    asyncio.run(main())


def patches_of(count: int) -> list[dict[str, Any]]:
    """Columns of patches, one patch each."""
    return [{name: getattr(pair, name)[None] for name in COLUMNS} for pair in synthetic_pairs(count, seed=3)]


def request_of(columns: dict[str, Any]) -> Any:
    """gRPC message of one patch."""
    tensors = []
    for name, array in columns.items():
        tensor = InferInput(name, list(array.shape), DATATYPES[array.dtype.name])
        tensor.set_data_from_numpy(np.ascontiguousarray(array), binary_data=True)
        tensors.append(tensor)
    return InferRequest("eoforge-predict-s1s2", tensors).to_grpc()


def bare(bundle: str, patches: list[dict[str, Any]]) -> dict[str, float]:
    """Latency of the predictor without a service."""
    from services.prediction.state import batch_of

    predictor = open_predictor(load_bundle(bundle), "cpu")
    predictor.predict(batch_of([{name: array[0] for name, array in patches[0].items()}]))
    times = []
    for turn in range(SEQUENTIAL):
        columns = {name: array[0] for name, array in patches[turn % len(patches)].items()}
        start = time.perf_counter()
        predictor.predict(batch_of([columns]))
        times.append(time.perf_counter() - start)
    return percentiles(times)


async def measure(target: str, alone: dict[str, float], patches: list[dict[str, Any]]) -> dict[str, Any]:
    """All figures against a running service."""
    requests = [request_of(columns) for columns in patches]
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = oip_grpc.GRPCInferenceServiceStub(channel)

        def call(request: Any) -> Awaitable[Any]:
            awaited: Awaitable[Any] = stub.ModelInfer(request, timeout=_TIMEOUT_S)
            return awaited

        await one_by_one(call, requests[:4])
        through = percentiles(await one_by_one(call, requests * (SEQUENTIAL // len(requests))))
        return {
            "bare": alone,
            "service": through,
            "service_over_bare_p50": round(through["p50_ms"] / alone["p50_ms"], 2),
            "service_minus_bare_p50_ms": round(through["p50_ms"] - alone["p50_ms"], 3),
            "load": {str(clients): await together(call, clients, requests) for clients in CLIENTS},
        }


def main() -> None:
    """Starts the service, measures, prints and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES))
    arguments = parser.parse_args()
    # One thread on both sides: on a busy machine, threads that wait for each other measure the waiting.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"load_average": os.getloadavg()[0], "patch_bytes": 0}
    patches = patches_of(PATCHES)
    figures["patch_bytes"] = sum(array.nbytes for array in patches[0].values())
    with tempfile.TemporaryDirectory() as folder:
        for backbone in arguments.backbones:
            bundle = untrained_bundle(folder, replace(Config.paper(), backbone=backbone))
            with process_of(serve, bundle.uri) as address:
                target = address()
                figures[backbone] = asyncio.run(measure(target, bare(bundle.uri, patches), patches))
            print(json.dumps({backbone: figures[backbone]}), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
