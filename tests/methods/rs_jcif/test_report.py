"""The compression report and the benchmark's verdict on known figures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from benchmarks.methods.rs_jcif import against_codecs, against_sum, interval, latent_search
from eoforge.methods.evaluation.codec_baselines import bits_ratio
from eoforge.methods.evaluation.fidelity import PEAKS
from eoforge.methods.rs_jcif.report import compression_html


def curve(factor: float = 1.0) -> list[dict[str, float]]:
    """Rate of a codec with one bit per 6.02 dB, times ``factor``."""
    return [{"bpppb": factor * bits, "mse": 4.0 ** (6 - bits)} for bits in (1.0, 2.0, 3.0, 4.0, 5.0)]


def steps(modality: str, factor: float) -> list[dict[str, float]]:
    """Rows of a ladder on the same line."""
    peak = PEAKS[modality][0]
    return [
        {
            "quality": float(i),
            "bpp": 2 * factor * bits,
            "bpppb": factor * bits,
            "payload_bpppb": 0.9 * factor * bits,
            "rmse": 2.0 ** (6 - bits),
            f"psnr_{peak:.0f}": 20 * math.log10(peak) - 6.02 * (6 - bits),
        }
        for i, bits in enumerate((2.0, 3.0, 4.0))
    ]


def seed_row(seed: int, pcgrad: float = 0.5, gain: float = 0.0, control: bool = True) -> dict[str, Any]:
    def joint(factor: float, value: float) -> dict[str, Any]:
        return {"map": value, "ladder": {m: steps(m, factor) for m in ("s1", "s2")}}

    ways = {"from_latent": (2.0, 0.30), "decode_then_separate": (9.0, 0.305), "decode_then_encode": (8.0, 0.3)}
    row = {
        "seed": seed,
        "separate": joint(0.8, 0.305),
        "sum": joint(0.5, 0.3),
        "pcgrad": joint(pcgrad, 0.3 + gain),
        "paths": {n: {"milliseconds_per_query": t, "map@10": v} for n, (t, v) in ways.items()},
    }
    return row | ({"control": joint(0.5, 0.3 + 0.001 * (seed - 1))} if control else {})


BASELINES = {
    m: {
        "curves": {name: curve() for name in ("jpeg2000", "jpeg2000-klt", "jpeg-xl")},
        "lossless_bpppb": {"zstd": 9.0, "jpeg-xl": 8.0},
    }
    for m in ("s1", "s2")
}


def test_bits_are_compared_at_equal_error_within_the_other_s_range() -> None:
    assert bits_ratio(steps("s2", 0.5), curve()) == pytest.approx(0.5)
    assert bits_ratio(steps("s2", 0.5), curve(), "payload_bpppb") == pytest.approx(0.45)
    far = [{"bpppb": 1.0, "mse": 1e-6}, {"bpppb": 2.0, "mse": 1e-7}]
    assert bits_ratio(steps("s2", 0.5), far) is None


def test_the_interval_is_student_s_and_the_control_adds_to_the_spread() -> None:
    low, high = interval([1.0, 2.0, 3.0], [])
    assert (low, high) == pytest.approx((2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)), abs=1e-3)
    quiet = interval([1.0, 2.0, 3.0], [0.1, -0.1, 0.1])
    assert low < quiet[0] < quiet[1] < high
    assert interval([1.0], []) == (-math.inf, math.inf)
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        low, high = interval(list(rng.normal(0, 1, 3)), list(rng.normal(0, 1, 3)))
        inside += low <= 0 <= high
    assert inside / 400 == pytest.approx(0.95, abs=0.03)


def test_pcgrad_is_worse_only_where_chance_does_not_explain_it() -> None:
    assert against_sum([seed_row(i) for i in range(3)], ["s1", "s2"])["holds_pcgrad_not_worse"]
    assert against_sum([seed_row(i, gain=0.001 * (i - 2)) for i in range(3)], ["s1", "s2"])["holds_pcgrad_not_worse"]
    assert not against_sum([seed_row(i, gain=-0.02) for i in range(3)], ["s1", "s2"])["holds_pcgrad_not_worse"]
    assert not against_sum([seed_row(i, pcgrad=0.51) for i in range(3)], ["s1", "s2"])["holds_pcgrad_not_worse"]


def test_the_other_claims_follow_from_their_figures() -> None:
    rows = [seed_row(i) for i in range(3)]
    assert latent_search(rows)["holds_latent_search"]
    rows[1]["paths"]["from_latent"]["milliseconds_per_query"] = 10.0
    assert not latent_search(rows)["holds_latent_search"]
    assert against_codecs(rows, BASELINES)["holds_fewer_bits_than_jpeg2000_s1"]
    assert not against_codecs([seed_row(0, pcgrad=1.1)], BASELINES)["holds_fewer_bits_than_jpeg2000_s1"]


def test_the_report_shows_separate_training_and_the_plain_sum() -> None:
    runs = []
    for row in (seed_row(0), seed_row(1)):
        facts = {"seed": row["seed"], "bundle": "b", "patches": "t", "rated_patches": 4, "bits": 32, "rule": "pcgrad"}
        runs.append(
            {
                "facts": {**facts, "queries": 5, "gallery": 6},
                "ladder": row["pcgrad"]["ladder"],
                "map_by_quality": [{"quality": 0.0, "s1_to_s2": 0.1}, {"quality": 2.0, "s1_to_s2": 0.2}],
                "paths": row["paths"],
                "baselines": BASELINES,
            }
        )
        runs[-1]["systems"] = {name: row[name] for name in ("separate", "sum", "pcgrad")}
    html = compression_html(runs, {"holds": True})
    for words in ("codec and hash network trained separately", "joint, plain sum of gradients", "joint, PCGrad"):
        assert html.count(words) == 2
    assert html.count("data:image/png") == 3  # rate and distortion of two sensors, rate and retrieval
    alone = compression_html([{k: v for k, v in runs[0].items() if k != "systems"}])
    assert "Joint and separate training" in html
    assert "Joint and separate training" not in alone
