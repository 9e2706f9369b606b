"""The report of a codec with hash codes: rate against distortion and mAP, time per query, tables of all figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eoforge.methods.evaluation.charts import SENSOR, chart
from eoforge.methods.evaluation.codec_baselines import bits_ratio
from eoforge.methods.evaluation.fidelity import PEAKS
from eoforge.report import Html, concat, element, figure, page, section, table

PATHS = {
    "decode_then_separate": "decode, then encode with a network trained for codes only",
    "decode_then_encode": "decode, then encode",
    "from_latent": "entropy decoding, then the hash module",
    "stored": "read the code in the stream",
}
SYSTEMS = {
    "separate": "codec and hash network trained separately",
    "sum": "joint, plain sum of gradients",
    "pcgrad": "joint, PCGrad",
}
_COLOURS = ("#0b6e99", "#e2932f", "#1a7f4b", "#b3412f", "#5b6875", "#7a4fa3")
_NOTE_RATE = (
    "Bits per stored sample of whole streams, with header, name, georeference and hash code (dotted: payload alone). "
    "The curves of the other codecs are bounds: every band group of every patch has the setting that an ideal "
    "allocation of bits chooses, and names and georeference are not counted."
)


def compression_html(runs: Sequence[Mapping[str, Any]], verdict: Mapping[str, Any] | None = None) -> str:
    """The page of one or more measured bundles.

    Args:
        runs: From ``evaluate.measure_codec``; curves show the first, tables all of them. The optional key
            ``systems`` holds codecs of other trainings on the same patches: name -> mAP and ladder.
        verdict: Claim -> result, for a page over several seeds.
    """
    first = runs[0]
    facts = first["facts"]
    parts: list[object] = []
    if verdict is not None:
        parts.append(section("Claims", table(("claim", "value"), [(k, str(v)) for k, v in verdict.items()])))
    parts += [_rate_distortion(first, modality) for modality in first["ladder"]]
    parts += [_rate_map(first), _systems(runs), _paths(runs)]
    parts += [_bands(first, modality) for modality in first["ladder"]]
    lead = (
        f"{facts['rated_patches']} patches rated, {facts['queries']} queries against {facts['gallery']} patches, "
        f"{facts['bits']} bits per code, {len(runs)} run(s)."
    )
    footer = f"Bundle {facts['bundle']} on {facts['patches']}; seed {facts['seed']}, gradient rule {facts['rule']}."
    return page("Compression with hash codes", lead, parts, footer)


def _rate_distortion(run: Mapping[str, Any], modality: str) -> Html:
    import numpy as np

    peak = PEAKS[modality][0]
    rows, others = run["ladder"][modality], run["baselines"][modality]
    drawing, (axes,) = chart(1, (6.8, 3.8))
    key = f"psnr_{peak:.0f}"
    quality = [row[key] for row in rows]
    axes.plot([row["bpppb"] for row in rows], quality, "o-", color=_COLOURS[0], label="RS-JCIF", linewidth=2)
    axes.plot([row["payload_bpppb"] for row in rows], quality, ":", color=_COLOURS[0])
    if "systems" in run:
        alone = run["systems"]["separate"]["ladder"][modality]
        points = [row["bpppb"] for row in alone], [row[key] for row in alone]
        axes.plot(*points, "--", color=_COLOURS[0], label="codec trained separately", linewidth=1)
    for colour, (name, curve) in zip(_COLOURS[1:], others["curves"].items(), strict=False):
        decibels = [10 * np.log10(peak**2 / max(p["mse"], 1e-12)) for p in curve]
        label = f"{name} (B02-B04)" if name in ("avif", "webp") else name
        axes.plot([p["bpppb"] for p in curve], decibels, color=colour, label=label, linewidth=1.2)
    axes.set_xscale("log")
    axes.set_xlabel("bits per stored sample")
    axes.set_ylabel(f"PSNR in dB, peak {peak:.0f}")
    axes.legend(frameon=False, fontsize=8)
    lossless = ", ".join(f"{name} {bits:.2f}" for name, bits in others["lossless_bpppb"].items())
    return section(
        f"Rate and distortion, {SENSOR[modality]}",
        figure(drawing, _NOTE_RATE),
        element("p", f"Lossless, bits per stored sample: {lossless}.", class_="soft"),
    )


def _rate_map(run: Mapping[str, Any]) -> Html:
    drawing, (axes,) = chart(1, (6.8, 3.8))
    directions = [name for name in run["map_by_quality"][0] if name != "quality"]
    for colour, direction in zip(_COLOURS, directions, strict=False):
        source, _, target = direction.partition("_to_")
        bpp = {row["quality"]: row["bpp"] for row in run["ladder"][source]}
        rate = [bpp[row["quality"]] for row in run["map_by_quality"]]
        values = [row[direction] for row in run["map_by_quality"]]
        axes.plot(rate, values, "o-", color=colour, label=f"{SENSOR[source]} query, {SENSOR[target]} gallery")
    axes.set_xscale("log")
    axes.set_xlabel("bits per 10 m pixel of the query's stream")
    axes.set_ylabel("mAP@10, Jaccard ≥ 0.5")
    axes.legend(frameon=False, fontsize=8)
    caption = "Codes from the latent at each quality; queries from the validation split, gallery from the test split."
    return section("Rate and retrieval", figure(drawing, caption))


def _systems(runs: Sequence[Mapping[str, Any]]) -> Html:
    """The comparison of joint and separate training; empty where no run has the key ``systems``."""
    rows = []
    for run in runs:
        for name, system in run.get("systems", {}).items():
            ratios = [bits_ratio(system["ladder"][m], run["baselines"][m]["curves"]["jpeg2000"]) for m in run["ladder"]]
            rows.append((SYSTEMS[name], run["facts"]["seed"], system["map"], *ratios))
    if not rows:
        return concat([])
    header = ("system", "seed", "mAP@10", *(f"{SENSOR[m]}: bits over JPEG2000" for m in runs[0]["ladder"]))
    note = "Bits of whole streams over those of JPEG2000 codestreams, at equal error; geometric mean over qualities."
    return section("Joint and separate training", table(header, rows), element("p", note, class_="soft"))


def _paths(runs: Sequence[Mapping[str, Any]]) -> Html:
    rows = []
    for run in runs:
        for name, label in PATHS.items():
            if name in run["paths"]:
                row = run["paths"][name]
                rows.append((label, run["facts"]["seed"], row["milliseconds_per_query"], row["map@10"]))
    note = "Time from a stored stream to its code, one stream at a time (median); the search costs the same for all."
    return section(
        "Query paths",
        table(("path", "seed", "ms per query", "mAP@10"), rows),
        element("p", note, class_="soft"),
    )


def _bands(run: Mapping[str, Any], modality: str) -> Html:
    rows = run["ladder"][modality]
    names = [name for name in rows[0] if name != "quality"]
    header = ("figure", *(f"quality {row['quality']:g}" for row in rows))
    body = [(name.replace("_", " "), *(row[name] for row in rows)) for name in names]
    return section(f"Every figure, {SENSOR[modality]}", table(header, body))
