"""A whole CSMAE training step (losses, gradients, AdamW) on data that is already on the device: pairs per second.

Four variants, each by the plain path (everything embedded, every pair decoded by itself, every place predicted), by the
sharing path, and on CUDA by the sharing path with compiled blocks and the whole step, optimiser included, in one CUDA
graph. The two paths' losses and gradients are compared in float32 first; a variant that differs is not timed. Pixels
come from native grids, as they are stored. Needs torch, triton, timm and NumPy only; ``--data`` adds a case that reads
its batches from Lance, where pylance is installed.

    python -m benchmarks.methods.csmae_step [--device cuda|cpu] [--vit base] [--batch 128] [--out FILE] [--data TABLE]
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton

from eoforge.data.bands import GROUP_OF
from eoforge.methods.csmae.config import VITS, Settings
from eoforge.methods.csmae.loss import objective
from eoforge.methods.csmae.masking import draw_masks
from eoforge.methods.csmae.model import Csmae
from eoforge.methods.csmae.pixels import NativeGrids, Pixels
from eoforge.methods.csmae.step import Run, compile_blocks, cuda_graph
from kernels.random_mask import mask_state

VARIANTS = ("cecd", "cesd", "secd", "sesd")
PATHS = {"plain": False, "sharing": True}
GRAPH = "sharing, compiled blocks, whole-step CUDA graph"
GATE_PAIRS = 2
LOSS_BOUND, GRADIENT_BOUND = 1e-5, 1e-4
"""Tolerances of the check: relative difference of the loss, and of each gradient relative to its largest element."""

Images = dict[str, Pixels]


def random_images(settings: Settings, pairs: int, device: torch.device) -> Images:
    """Noise on native grids if the size allows; the time of a step does not depend on the pixels."""
    generator = torch.Generator().manual_seed(0)
    images = {}
    for modality, bands in settings.sensor_bands.items():
        if not NativeGrids.can(bands, settings.size, "nearest"):
            shape = (pairs, len(bands), settings.size, settings.size)
            images[modality] = Pixels.of(torch.randn(shape, generator=generator).to(device))
            continue
        groups = {GROUP_OF[band].column: GROUP_OF[band] for band in bands}
        drawn = {
            name: torch.randint(1, 9000, (pairs, *group.shape), generator=generator).to(getattr(torch, group.dtype))
            for name, group in groups.items()
        }
        grids = NativeGrids.build(bands, [4500.0] * len(bands), [2600.0] * len(bands), device)
        images[modality] = Pixels([drawn[column].to(device) for column in grids.columns], grids.table)
    return images


def gate(settings: Settings, device: torch.device) -> None:
    """Raises AssertionError if the two paths differ."""
    torch.manual_seed(0)
    network = Csmae(settings).to(device)
    images = random_images(settings, GATE_PAIRS, device)
    masks = draw_masks(mask_state(0, device=device), GATE_PAIRS, settings)
    losses, gradients = [], []
    for sharing in PATHS.values():
        network.settings = dataclasses.replace(settings, sharing=sharing)
        network.zero_grad()
        # By default cuDNN computes the plain path's convolution in TF32, with three digits.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            loss = objective(network, images, masks)["loss"]
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        losses.append(loss.item())
        gradients.append([p.grad for p in network.parameters() if p.grad is not None])
    if abs(losses[0] - losses[1]) > LOSS_BOUND * abs(losses[0]):
        raise AssertionError(f"losses differ: {losses[0]} and {losses[1]}")
    for plain, shared in zip(*gradients, strict=True):
        if (plain - shared).abs().max() > GRADIENT_BOUND * plain.abs().max().clamp_min(1e-3):
            raise AssertionError(f"a gradient of shape {list(plain.shape)} differs")


def make_step(settings: Settings, device: torch.device, pairs: int, graph: bool = False) -> Callable[[Images], None]:
    """One optimiser step on a batch; bf16 on CUDA, float32 on the CPU. A graph reads the memory of the first batch."""
    torch.manual_seed(0)
    network, cuda = Csmae(settings).to(device), device.type == "cuda"
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=1e-4, weight_decay=0.05, betas=(0.9, 0.95), fused=cuda, capturable=graph
    )
    state = mask_state(0, device=device)
    static: Images = {}
    replay: list[Run] = []
    if graph:
        compile_blocks(network)

    def run(images: Images) -> None:
        state[1] += 1
        with torch.autocast(device.type, torch.bfloat16, enabled=cuda, cache_enabled=not graph):
            loss = objective(network, images, draw_masks(state, pairs, settings))["loss"]
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def replayed(images: Images) -> None:
        if not replay:
            static.update({modality: pixels.clone() for modality, pixels in images.items()})
            replay.append(cuda_graph(lambda: run(static)))
        for modality, pixels in images.items():
            static[modality].copy_(pixels)
        replay[0]()

    return replayed if graph else run


def seconds_of(call: Callable[[], None], device: torch.device, rounds: int, warm: int) -> list[float]:
    """Wall times of ``call``, each with the device idle before and after."""
    times = []
    for turn in range(warm + rounds):
        _wait(device)
        start = time.perf_counter()
        call()
        _wait(device)
        if turn >= warm:
            times.append(time.perf_counter() - start)
    return times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    settings: Settings, device: torch.device, pairs: int, rounds: int, warm: int, graph: bool = False
) -> dict[str, Any]:
    """Median pairs per second, the spread, and the peak of device memory (None on a CPU)."""
    cuda = device.type == "cuda"
    if cuda:
        gc.collect()  # frees network and graph of the previous case
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    step, images = make_step(settings, device, pairs, graph), random_images(settings, pairs, device)
    times = seconds_of(lambda: step(images), device, rounds, warm)
    return {
        "pairs_per_s": round(pairs / statistics.median(times), 2),
        "slowest_pairs_per_s": round(pairs / max(times), 2),
        "fastest_pairs_per_s": round(pairs / min(times), 2),
        "peak_memory_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 3) if cuda else None,
    }


def measure_from_lance(settings: Settings, device: torch.device, pairs: int, data: str) -> dict[str, Any]:
    """Pairs per second of one epoch with reading, by the fastest path of the device."""
    from eoforge.data.loading.loader import PatchLoader

    grids = {
        m: NativeGrids.build(bands, [0.0] * len(bands), [1e3] * len(bands), device)
        for m, bands in settings.sensor_bands.items()
    }
    step = make_step(settings, device, pairs, device.type == "cuda")
    loader = PatchLoader(
        data, batch_size=pairs, shuffle=True, workers=4, drop_last=True, pin_memory=device.type == "cuda"
    )

    def epoch() -> None:
        for batch in loader:
            moved = batch.to(device)
            step({modality: g.pixels(moved, None) for modality, g in grids.items()})

    (seconds,) = seconds_of(epoch, device, rounds=1, warm=1)
    return {"pairs_per_s": round(len(loader) * pairs / seconds, 2), "batches": len(loader)}


def main() -> int:
    """Command line; 1 if a check failed."""
    parser = argparse.ArgumentParser(description="Pairs per second of a CSMAE training step.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--vit", choices=sorted(VITS), default="base")
    parser.add_argument("--batch", type=int, default=128, help="pairs per step")
    parser.add_argument("--size", type=int, default=120)
    parser.add_argument("--patch", type=int, default=15)
    parser.add_argument("--decoder-width", type=int, default=512)
    parser.add_argument("--decoder-depth", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--warm", type=int, default=5)
    parser.add_argument("--data", help="patches table for the case that reads from Lance")
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here")
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    print(f"{name}, torch {torch.__version__}, triton {triton.__version__}; batch {options.batch}, {options.vit}")
    rows, failures = [], 0
    for variant in VARIANTS:
        settings = Settings(
            variant=variant, vit=options.vit, size=options.size, patch=options.patch,  # type: ignore[arg-type]
            decoder_width=options.decoder_width, decoder_depth=options.decoder_depth,
        )  # fmt: skip
        try:
            gate(settings, device)
        except AssertionError as error:
            failures += 1
            print(f"GATE FAILED, not timed: {variant}: {error}", file=sys.stderr)
            continue
        for path, sharing in PATHS.items():
            chosen = dataclasses.replace(settings, sharing=sharing)
            figures = measure(chosen, device, options.batch, options.rounds, options.warm)
            rows.append({"variant": variant, "path": path, **figures})
            print(rows[-1], flush=True)
        if device.type == "cuda":
            figures = measure(settings, device, options.batch, options.rounds, options.warm, graph=True)
            rows.append({"variant": variant, "path": GRAPH, **figures})
            print(rows[-1], flush=True)
        if options.data:
            figures = measure_from_lance(settings, device, options.batch, options.data)
            rows.append({"variant": variant, "path": "with loading from Lance", **figures})
            print(rows[-1], flush=True)
    if options.out:
        described = {"device": name, "torch": torch.__version__, "triton": triton.__version__}
        chosen_options = {k: v for k, v in vars(options).items() if k != "out"}
        options.out.write_text(json.dumps({**described, "options": chosen_options, "rows": rows}, indent=2) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
