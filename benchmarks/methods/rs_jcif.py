"""What RS-JCIF claims, over several seeds: search from the latent, gradient manipulation, bits at equal PSNR.

Per seed: the codec alone (stage 1), then from it a joint run by PCGrad, a joint run by the plain sum, and a network of
the same shape trained for codes alone. All are measured on the same held-out patches of one synthetic archive.

1. Codes from the latent find as much (within one mAP point) as decoding and hashing with a network of its own, in a
   fraction of the time per query.
2. PCGrad is not worse than the sum: neither in bits at equal PSNR nor in mAP, by more than the standard error of the
   paired differences between seeds.
3. At equal PSNR the joint codec's whole streams have fewer bits than JPEG2000's bare codestreams.

    python -m benchmarks.methods.rs_jcif [--patches N] [--seeds 3] [--rated 32] [--report FILE] [--out FILE] [k=v ...]
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.methods.cross_modal import synthetic_table
from eoforge.data.store import TableRef
from eoforge.methods.evaluate import GALLERY_SPLIT, QUERY_SPLIT
from eoforge.methods.rs_jcif.config import Config
from eoforge.methods.rs_jcif.evaluate import (
    coder_of,
    codes_of,
    ladder,
    maps,
    measure_baselines,
    query_paths,
    read_split,
)
from eoforge.methods.rs_jcif.method import METHOD, load_codec
from eoforge.methods.rs_jcif.report import compression_html

RULES = ("pcgrad", "sum")
MAP_TOLERANCE = 0.01


def bits_ratio(ours: list[dict[str, float]], theirs: list[dict[str, float]], key: str = "bpppb") -> float | None:
    """Geometric mean, over our points within their range, of our bits over theirs at the same mean squared error."""
    errors = np.log([max(p["mse"], 1e-12) for p in theirs])
    order = np.argsort(errors)
    ratios = []
    for point in ours:
        wanted = math.log(point["rmse"] ** 2)
        if errors[order[0]] <= wanted <= errors[order[-1]]:
            other = np.interp(wanted, errors[order], np.log([theirs[i]["bpppb"] for i in order]))
            ratios.append(math.log(point[key]) - float(other))
    return math.exp(float(np.mean(ratios))) if ratios else None


def run_seed(
    table: TableRef, folder: str, config: Config, rate: int, ask: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures of one seed, and what the report shows of its PCGrad run.

    Args:
        table: Patches.
        folder: Where runs go.
        config: With the seed.
        rate: Patches on which bits and errors are measured.
        ask: At most as many queries, and as many patches to answer them; None takes the whole splits.
    """
    queries, gallery = read_split(table, QUERY_SPLIT, ask), read_split(table, GALLERY_SPLIT, ask)
    rated = read_split(table, GALLERY_SPLIT, rate)
    first = METHOD.compress_first(table, folder, config)
    bundles = {rule: METHOD.join(first, folder, replace(config, rule=rule)) for rule in RULES}
    separate = load_codec(METHOD.join(first, folder, config, "hash"), "cpu")
    steps = list(range(config.steps))
    row: dict[str, Any] = {
        "seed": config.seed,
        "stage_1": {m: ladder(load_codec(first, "cpu"), rated, m, steps) for m in config.bands},
    }
    for rule, bundle in bundles.items():
        codec = load_codec(bundle, "cpu")
        coder = coder_of(codec, config.quality)
        asking, answering = (codes_of(coder, split, tuple(config.bands)) for split in (queries, gallery))
        found = maps(asking, answering, queries, gallery)
        row[rule] = {
            "ladder": {m: ladder(codec, rated, m, steps) for m in config.bands},
            "map": float(np.mean(list(found.values()))),
            "map_by_direction": found,
            "training_seconds": bundle.metrics["training_seconds"],
            "gradient_cosine": [h["gradient_cosine"] for h in bundle.metrics["history"]],
        }
    codec = load_codec(bundles["pcgrad"], "cpu")
    row["paths"] = query_paths(codec, queries, gallery, config.quality, separate)
    by_rate = []
    for q in steps[::2] if config.seed == 0 else []:  # one curve is shown
        coder = coder_of(codec, q)
        asking, answering = (codes_of(coder, split, tuple(config.bands)) for split in (queries, gallery))
        by_rate.append({"quality": float(q), **maps(asking, answering, queries, gallery)})
    shown = {
        "facts": {
            "method": "rs_jcif",
            "bundle": bundles["pcgrad"].id,
            "patches": str(table),
            "rated_patches": sum(map(len, rated.batches)),
            "queries": len(queries.masks),
            "gallery": len(gallery.masks),
            "bits": config.bits,
            "rule": "pcgrad",
            "seed": config.seed,
        },
        "ladder": row["pcgrad"]["ladder"],
        "map_by_quality": by_rate,
        "paths": row["paths"],
    }
    return row, shown


def verdict(rows: list[dict[str, Any]], baselines: dict[str, Any]) -> dict[str, Any]:
    """The three claims in numbers, and whether they hold."""
    latent = [r["paths"]["from_latent"]["map@10"] - r["paths"]["decode_then_separate"]["map@10"] for r in rows]
    again = [r["paths"]["from_latent"]["map@10"] - r["paths"]["decode_then_encode"]["map@10"] for r in rows]
    times = [
        r["paths"]["from_latent"]["milliseconds_per_query"]
        / r["paths"]["decode_then_separate"]["milliseconds_per_query"]
        for r in rows
    ]
    out: dict[str, Any] = {
        "latent_minus_separate_map": latent,
        "latent_minus_decode_then_encode_map": again,
        "latent_time_over_decode_then_separate": times,
        "holds_latent_search": bool(np.mean(latent) >= -MAP_TOLERANCE and max(times) < 1),
    }
    gain = [r["pcgrad"]["map"] - r["sum"]["map"] for r in rows]
    out["pcgrad_minus_sum_map"] = gain
    holds = float(np.mean(gain)) >= -_standard_error(gain)
    for m in baselines:
        logs = []
        for r in rows:
            theirs = [{"bpppb": p["bpppb"], "mse": p["rmse"] ** 2} for p in r["sum"]["ladder"][m]]
            logs.append(math.log(bits_ratio(r["pcgrad"]["ladder"][m], theirs) or math.inf))
        out[f"pcgrad_over_sum_bits_{m}"] = [math.exp(v) for v in logs]
        holds &= float(np.mean(logs)) <= _standard_error(logs)
        for name in ("jpeg2000", "jpeg2000-klt", "jpeg-xl"):
            for key in ("bpppb", "payload_bpppb"):
                curve = baselines[m]["curves"][name]
                out[f"{key}_over_{name}_{m}"] = [bits_ratio(r["pcgrad"]["ladder"][m], curve, key) for r in rows]
        out[f"holds_fewer_bits_than_jpeg2000_{m}"] = all(
            (ratio or math.inf) < 1 for ratio in out[f"bpppb_over_jpeg2000_{m}"]
        )
    out["holds_pcgrad_not_worse"] = bool(holds)
    return out


def _standard_error(values: list[float]) -> float:
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def main() -> None:
    """Runs it and prints every number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=1200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rated", type=int, default=32, help="patches on which bits and errors are measured")
    parser.add_argument("--table", help="an existing table instead of a synthetic one")
    parser.add_argument("--runs", help="folder of runs; a repeated call finds what is finished")
    parser.add_argument("--ask", type=int, help="queries at most, and patches that answer; the whole splits by default")
    parser.add_argument("--report", type=Path, help="HTML page")
    parser.add_argument("--out", type=Path)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    overrides = dict(setting.split("=", 1) for setting in arguments.settings)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "patches.lance")
        table = TableRef.parse(arguments.table) if arguments.table else synthetic_table(path, arguments.patches)
        rated, training = (read_split(table, split, arguments.rated) for split in (GALLERY_SPLIT, "train"))
        configs = [METHOD.config("tiny", {**overrides, "seed": str(seed)}) for seed in range(arguments.seeds)]
        runs = arguments.runs or f"{folder}/runs"
        baselines = {m: measure_baselines(rated, training, m) for m in configs[0].bands}
        print("baselines measured", flush=True)
        rows, shown = [], []
        for config in configs:
            row, page = run_seed(table, runs, config, arguments.rated, arguments.ask)
            rows.append(row)
            shown.append(page)
            print(json.dumps({k: row[k] for k in ("seed", "paths")}), flush=True)
        claims = verdict(rows, baselines)
    result = {
        "patches": arguments.patches,
        "settings": overrides,
        "rated": sum(map(len, rated.batches)),
        "split": f"queries {QUERY_SPLIT}, gallery {GALLERY_SPLIT}",
        "seeds": rows,
        "baselines": baselines,
        "map_by_quality": shown[0]["map_by_quality"],
        "verdict": claims,
    }
    print(json.dumps(claims, indent=2))
    if arguments.report:
        arguments.report.parent.mkdir(parents=True, exist_ok=True)
        for page in shown:
            page["baselines"] = baselines
        arguments.report.write_text(compression_html(shown, claims))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
