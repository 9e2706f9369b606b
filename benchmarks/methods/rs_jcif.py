"""The claims of RS-JCIF over several seeds: search from the latent, gradient combination, bits at equal PSNR.

Per seed: the codec alone (stage 1), then from it a joint run by PCGrad, one by the plain sum, the sum once more with
its batches in another order (the control, which differs by chance only), and a network of the same shape trained for
codes alone. All are measured on the same held-out patches of one synthetic archive.

1. The mAP of codes from the latent is that of decoding and hashing with a separate network (within one point), in a
   fraction of the time per query.
2. PCGrad is not worse than the sum at either task: the paired 95 % interval of its differences in mAP reaches zero or
   is above, that of its bits at equal error reaches zero or is below. The interval is Student's, from the spread of the
   differences between seeds and, with a control, of the control's differences around zero.
3. At equal PSNR the joint codec's whole streams (header, name, georeference, hash code, checksum) have fewer bits than
   JPEG2000's bare codestreams (their own headers, nothing else).

    python -m benchmarks.methods.rs_jcif [--patches N] [--seeds 3] [--rated 24] [--no-control] [--runs FOLDER]
        [--report FILE.html] [--out FILE] [k=v ...]
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats  # type: ignore[import-untyped]  # scipy ships no types

from benchmarks.methods.cross_modal import synthetic_table
from eoforge.bundle import Bundle
from eoforge.codec.learned.model import Codec
from eoforge.methods.evaluation.codec_baselines import bits_ratio
from eoforge.methods.evaluation.retrieval import GALLERY_SPLIT, QUERY_SPLIT
from eoforge.methods.rs_jcif.config import Config
from eoforge.methods.rs_jcif.evaluate import ladder, measure_baselines
from eoforge.methods.rs_jcif.method import METHOD, load_codec
from eoforge.methods.rs_jcif.paths import coder_of, codes_of, maps, query_paths
from eoforge.methods.rs_jcif.report import compression_html
from eoforge.methods.rs_jcif.split import Split, read_split
from eoforge.storage.addresses import TableRef

MAP_TOLERANCE = 0.01
"""Allowed difference in mAP of the first claim."""
CONTROL_SEED = 1000
CONFIDENCE = 0.95
Ladders = dict[str, list[dict[str, float]]]


@dataclass(frozen=True)
class Held:
    """Held-out patches of all measurements."""

    queries: Split
    gallery: Split
    rated: Split


def joint_figures(bundle: Bundle, held: Held, config: Config) -> dict[str, Any]:
    """Rate and distortion of a joint run, and its mAP at every second quality and on average."""
    codec, modalities = load_codec(bundle, "cpu"), tuple(config.bands)
    steps = range(config.steps)
    by_quality = []
    for quality in steps[1:-1:2]:
        coder = coder_of(codec, quality)
        asking, answering = (codes_of(coder, split, modalities) for split in (held.queries, held.gallery))
        by_quality.append({"quality": float(quality), **maps(asking, answering, held.queries, held.gallery)})
    history = bundle.metrics["history"]
    return {
        "ladder": {m: ladder(codec, held.rated, m, steps) for m in modalities},
        "map_by_quality": by_quality,
        "map": float(np.mean([v for row in by_quality for name, v in row.items() if name != "quality"])),
        "training_seconds": bundle.metrics["training_seconds"],
        "gradient_cosine": {m: [h[f"gradient_cosine_{m}"] for h in history] for m in modalities},
    }


def run_seed(table: TableRef, folder: str, config: Config, held: Held, *, control: bool) -> dict[str, Any]:
    """Figures of one seed: ``separate``, ``sum``, ``pcgrad``, optionally ``control``, and the query ``paths``."""
    first = METHOD.compress_first(table, folder, config)
    plain = replace(config, rule="sum")
    configs = {"pcgrad": replace(config, rule="pcgrad"), "sum": plain}
    if control:
        configs["control"] = replace(plain, seed=config.seed + CONTROL_SEED)
    bundles = {name: METHOD.join(first, folder, one) for name, one in configs.items()}
    alone: Codec = load_codec(METHOD.join(first, folder, config, "hash"), "cpu")
    row: dict[str, Any] = {"seed": config.seed, "bundle": bundles["pcgrad"].id}
    row |= {name: joint_figures(bundle, held, config) for name, bundle in bundles.items()}
    codec = load_codec(bundles["pcgrad"], "cpu")
    row["paths"] = query_paths(codec, held.queries, held.gallery, config.quality, alone)
    before = load_codec(first, "cpu")
    row["separate"] = {
        "ladder": {m: ladder(before, held.rated, m, range(config.steps)) for m in config.bands},
        "map": row["paths"]["decode_then_separate"]["map@10"],
    }
    return row


def interval(differences: Sequence[float], control: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval of the mean of paired differences between seeds.

    Args:
        differences: One per seed.
        control: Differences between runs that differ by chance only: their mean is zero, and each adds to the spread.

    Returns:
        Its ends; infinite without any information on the spread.
    """
    found = np.asarray(differences)
    freedom = len(found) - 1 + len(control)
    if not freedom:
        return -math.inf, math.inf
    squares = float(np.square(found - found.mean()).sum() + np.square(control).sum())
    reach = stats.t.ppf(0.5 + CONFIDENCE / 2, freedom) * math.sqrt(squares / freedom / len(found))
    return float(found.mean() - reach), float(found.mean() + reach)


def log_bits(ours: Ladders, theirs: Ladders, modality: str) -> float:
    """Logarithm of the ratio of bits of two codecs at equal error."""
    other = [{"bpppb": p["bpppb"], "mse": p["rmse"] ** 2} for p in theirs[modality]]
    return math.log(bits_ratio(ours[modality], other) or math.inf)


def verdict(rows: list[dict[str, Any]], baselines: dict[str, Any]) -> dict[str, Any]:
    """Figures of the three claims, and whether they hold."""
    return {**latent_search(rows), **against_sum(rows, list(baselines)), **against_codecs(rows, baselines)}


def latent_search(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of the first claim."""
    latent, separate, again = (
        [r["paths"][path] for r in rows] for path in ("from_latent", "decode_then_separate", "decode_then_encode")
    )
    pairs = list(zip(latent, separate, again, strict=True))
    lost = [a["map@10"] - b["map@10"] for a, b, _ in pairs]
    times = [a["milliseconds_per_query"] / b["milliseconds_per_query"] for a, b, _ in pairs]
    return {
        "latent_minus_separate_map": lost,
        "latent_minus_decode_then_encode_map": [a["map@10"] - c["map@10"] for a, _, c in pairs],
        "latent_time_over_decode_then_separate": times,
        "holds_latent_search": bool(np.mean(lost) >= -MAP_TOLERANCE and max(times) < 1),
    }


def against_sum(rows: list[dict[str, Any]], modalities: list[str]) -> dict[str, Any]:
    """Figures of the second claim."""
    held = [r for r in rows if "control" in r]
    gain = [r["pcgrad"]["map"] - r["sum"]["map"] for r in rows]
    chance = [r["control"]["map"] - r["sum"]["map"] for r in held]
    low, high = interval(gain, chance)
    out: dict[str, Any] = {"pcgrad_minus_sum_map": gain, "control_minus_sum_map": chance}
    out["pcgrad_minus_sum_map_95"] = [low, high]
    holds = high >= 0
    for m in modalities:
        logs = [log_bits(r["pcgrad"]["ladder"], r["sum"]["ladder"], m) for r in rows]
        chance = [log_bits(r["control"]["ladder"], r["sum"]["ladder"], m) for r in held]
        low, high = interval(logs, chance)
        out[f"pcgrad_over_sum_bits_{m}"] = [math.exp(v) for v in logs]
        out[f"control_over_sum_bits_{m}"] = [math.exp(v) for v in chance]
        out[f"pcgrad_over_sum_bits_{m}_95"] = [math.exp(low), math.exp(high)]
        holds &= low <= 0
    return {**out, "holds_pcgrad_not_worse": bool(holds)}


def against_codecs(rows: list[dict[str, Any]], baselines: dict[str, Any]) -> dict[str, Any]:
    """Figures of the third claim, and of the other codecs."""
    out: dict[str, Any] = {}
    for m, measured in baselines.items():
        for name in ("jpeg2000", "jpeg2000-klt", "jpeg-xl"):
            for key in ("bpppb", "payload_bpppb"):
                ours = [bits_ratio(r["pcgrad"]["ladder"][m], measured["curves"][name], key) for r in rows]
                out[f"{key}_over_{name}_{m}"] = ours
        found = out[f"bpppb_over_jpeg2000_{m}"]
        out[f"holds_fewer_bits_than_jpeg2000_{m}"] = all((ratio or math.inf) < 1 for ratio in found)
    return out


def page_of(row: dict[str, Any], baselines: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """Figures of one seed in the form of the report."""
    return {
        "facts": {"bundle": row["bundle"], "seed": row["seed"], "rule": "pcgrad", **facts},
        "ladder": row["pcgrad"]["ladder"],
        "map_by_quality": row["pcgrad"]["map_by_quality"],
        "paths": row["paths"],
        "baselines": baselines,
        "systems": {name: row[name] for name in ("separate", "sum", "pcgrad")},
    }


def arguments() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rated", type=int, default=24, help="patches on which bits and errors are measured")
    parser.add_argument("--control", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--runs", help="folder of the archive and its runs; a repeated call continues there")
    parser.add_argument("--report", type=Path, help="HTML page; the figures are written as JSON next to it")
    parser.add_argument("--out", type=Path)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    return parser.parse_args()


def main() -> None:
    """Command line: prints and writes all figures."""
    given = arguments()
    started = time.monotonic()
    overrides = dict(setting.split("=", 1) for setting in given.settings)
    configs = [METHOD.config("tiny", {**overrides, "seed": str(seed)}) for seed in range(given.seeds)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(given.runs or folder) / "patches.lance"
        table = TableRef(str(path), 1) if path.exists() else synthetic_table(str(path), given.patches)
        queries, gallery = (read_split(table, split) for split in (QUERY_SPLIT, GALLERY_SPLIT))
        rated, training = (read_split(table, split, given.rated) for split in (GALLERY_SPLIT, "train"))
        held = Held(queries, gallery, rated)
        baselines = {m: measure_baselines(held.rated, training, m) for m in configs[0].bands}
        print(f"baselines measured after {time.monotonic() - started:.0f} s", flush=True)
        rows = []
        for config in configs:
            rows.append(run_seed(table, given.runs or f"{folder}/runs", config, held, control=given.control))
            print(f"seed {config.seed} after {time.monotonic() - started:.0f} s", flush=True)
    facts = {
        "method": "rs_jcif",
        "patches": str(table),
        "rated_patches": sum(map(len, held.rated.batches)),
        "queries": len(held.queries.masks),
        "gallery": len(held.gallery.masks),
        "bits": configs[0].bits,
    }
    claims = verdict(rows, baselines)
    print(json.dumps(claims, indent=2))
    result = {"facts": facts, "settings": overrides, "seeds": rows, "baselines": baselines, "verdict": claims}
    text = json.dumps({**result, "seconds": time.monotonic() - started}, indent=2) + "\n"
    if given.report:
        given.report.parent.mkdir(parents=True, exist_ok=True)
        given.report.write_text(compression_html([page_of(row, baselines, facts) for row in rows], claims))
        given.report.with_suffix(".json").write_text(text)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(text)


if __name__ == "__main__":
    main()
