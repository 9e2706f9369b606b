"""Device times: quantiles of CUDA-graph replays with a cold L2, wall time of the call, measured copy bandwidth."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

REPEATS = 50
FLUSH_BYTES = 256 * 2**20
"""Bytes written between replays, which evict the previous one from a 50 MB L2 cache."""


@dataclass(frozen=True)
class Timing:
    """Microseconds: quantiles of the device time, and the median wall time of the call from Python."""

    p20: float
    p50: float
    p80: float
    wall: float


def quantiles(times: list[float]) -> tuple[float, float, float]:
    """The 20th, 50th and 80th percentiles."""
    p20, p50, p80 = torch.tensor(times).quantile(torch.tensor([0.2, 0.5, 0.8])).tolist()
    return p20, p50, p80


def measure(call: Callable[[], object], device: torch.device) -> Timing:
    """Times of ``call``: on CUDA as a replayed graph, on the CPU by the clock."""
    rounds = 3 if device.type == "cpu" else 10
    for _ in range(rounds):
        call()
    walls = [_wall(call, device) for _ in range(rounds)]
    wall = quantiles(walls)[1]
    if device.type == "cpu":
        return Timing(*quantiles(walls), wall)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return Timing(*quantiles(_replays(graph, device)), wall)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written per second by a large device copy."""
    source = torch.empty(2**30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / (measure(lambda: target.copy_(source), device).p50 * 1e-6)


def _wall(call: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) * 1e6


def _replays(graph: torch.cuda.CUDAGraph, device: torch.device) -> list[float]:
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device)
    times = []
    for _ in range(REPEATS):
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3)
    return times
