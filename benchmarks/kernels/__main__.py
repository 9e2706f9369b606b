"""``python -m benchmarks.kernels [--device cuda|cpu] [--only OP] [--out FOLDER]``: correctness first, then times.

Needs torch and triton only. Without a GPU it checks correctness on small sizes and says that no device figure was
measured.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import triton
from triton.errors import TritonError

from benchmarks.kernels.cases import CASES, Case
from benchmarks.kernels.losses import LOSS_CASES
from benchmarks.kernels.timing import copy_bandwidth, measure

ALL_CASES = CASES | LOSS_CASES
NOT_MEASURED = (
    "No CUDA device: device figures were NOT measured. CPU times of the PyTorch branch on small sizes follow."
)


def run_case(case: Case, device: torch.device, bandwidth: float | None) -> dict[str, Any]:
    """Rows of one case: correctness check, then times of the kernel and of every alternative in the same run."""
    case.gate()
    ours = measure(case.ours, device)
    row: dict[str, Any] = {"case": case.name, "us": asdict(ours), "useful_bytes": case.useful_bytes, "rivals_us": {}}
    if bandwidth and case.useful_bytes:
        row["share_of_copy"] = case.useful_bytes / (ours.p50 * 1e-6) / bandwidth
    if case.pairs:
        row["gpair_per_s"] = case.pairs / ours.p50 / 1e3
    if case.flops and device.type == "cuda":
        row["tflop_per_s"] = case.flops / ours.p50 / 1e6
    rivals = dict(case.rivals)
    if "eager" in rivals and device.type == "cuda":
        torch.compiler.reset()  # shapes of earlier cases would make the compiled code dynamic, and slower
        rivals["torch.compile"] = torch.compile(rivals["eager"], dynamic=False)
    for name, call in rivals.items():
        try:
            row["rivals_us"][name] = measure(call, device).p50
        except RuntimeError as error:  # a failure (memory, graph capture) is a result too
            row["rivals_us"][name] = None
            print(f"{case.name}: {name} fails: {str(error).splitlines()[0]}", file=sys.stderr)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| case | p20 us | p50 us | p80 us | call us | share of copy | Gpair/s | TFLOP/s | rivals, p50 us |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        us, share, rate = row["us"], row.get("share_of_copy"), row.get("gpair_per_s")
        cells = [row["case"], *(f"{us[key]:.1f}" for key in ("p20", "p50", "p80", "wall"))]
        cells += [f"{share:.1%}" if share else "-", f"{rate:.0f}" if rate else "-"]
        cells.append(f"{row['tflop_per_s']:.1f}" if "tflop_per_s" in row else "-")
        rivals = [f"{name} {value:.1f}" if value else f"{name} fails" for name, value in row["rivals_us"].items()]
        cells.append(", ".join(rivals) or "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Command line; 1 if a correctness check failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", choices=sorted(ALL_CASES), action="append", help="an op; may be repeated")
    parser.add_argument("--out", type=Path, help="folder for kernels.json and kernels.md")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here")
    device = torch.device(options.device)
    on_gpu = device.type == "cuda"
    bandwidth = copy_bandwidth(device) if on_gpu else None
    name = torch.cuda.get_device_name(device) if on_gpu else platform.processor() or platform.machine()
    head = f"{name}, torch {torch.__version__}, triton {triton.__version__}"
    print(head if on_gpu else f"{head}\n{NOT_MEASURED}")
    if bandwidth:
        print(f"measured copy bandwidth {bandwidth / 1e9:.0f} GB/s (reads and writes)")
    rows, failures = [], 0
    for op in options.only or ALL_CASES:
        for build in ALL_CASES[op]:
            case = build(device, not on_gpu)
            try:
                rows.append(run_case(case, device, bandwidth))
            except (AssertionError, RuntimeError, TritonError) as error:
                failures += 1
                print(f"FAILED, not timed: {case.name}: {error}", file=sys.stderr)
            else:
                print(table(rows[-1:]).splitlines()[-1], flush=True)
    print(table(rows))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        report = {"device": head, "device_figures": on_gpu, "copy_bytes_per_s": bandwidth, "rows": rows}
        (options.out / "kernels.json").write_text(json.dumps(report, indent=1) + "\n")
        note = "" if on_gpu else f"\n{NOT_MEASURED}\n"
        (options.out / "kernels.md").write_text(f"# Kernels: {head}\n{note}\n{table(rows)}\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
