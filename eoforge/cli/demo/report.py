"""Report of the demo: figures, answered queries as pictures, and links to the pages of the pipeline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eoforge import report
from eoforge.bundle import load_bundle
from eoforge.report import Html, concat, element

if TYPE_CHECKING:
    from eoforge.cli.demo.service import Answer, Answers
    from eoforge.client import Hit
    from pipelines.run_local import LocalRun

PAGES = {"quality": "Quality of the ingested archive", "curves": "Training curves", "retrieval": "Retrieval evaluation"}
"""Outputs of the pipeline that are pages, and their titles."""
SENSOR = {"s1": "radar (Sentinel-1)", "s2": "optical (Sentinel-2)"}


def write_report(
    out: Path, run: LocalRun, answers: Answers, seconds: dict[str, float], compressed: dict[str, Any]
) -> dict[str, Any]:
    """Writes ``report.html`` and ``report.json``, and copies the pipeline's pages beside them.

    Args:
        out: Folder.
        run: Outputs of the pipeline ``archive_to_service``.
        answers: Answers of the service.
        seconds: Wall time per stage.
        compressed: Figures of the page on compression.

    Returns:
        The figures of ``report.json``, flat.
    """
    for name in PAGES:
        shutil.copyfile(run.outputs[name], out / f"{name}.html")
    metrics = run.find("evaluate", "metrics").metadata
    ingested = json.loads(run.outputs["summary"])
    bundle = load_bundle(run.outputs["bundle"])
    figures: dict[str, Any] = {
        "report": str(out / "report.html"),
        "patches_in": ingested["patches_in"],
        "quarantined": ingested["quarantined"],
        "method": bundle.config["method"],
        "bundle": bundle.uri,
        "codes": f"{run.outputs['codes_table']}@{run.outputs['codes_version']}",
        **metrics,
        **compressed,
        "search_p50_ms": round(float(np.percentile(answers.search_ms, 50)), 2),
        "search_p99_ms": round(float(np.percentile(answers.search_ms, 99)), 2),
        **{f"seconds_{name.partition(':')[0].replace(' ', '_')}": value for name, value in seconds.items()},
        "seconds": round(sum(seconds.values()), 1),
    }
    (out / "report.html").write_text(_page(figures, metrics, answers, seconds))
    (out / "report.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def _page(figures: dict[str, Any], metrics: dict[str, Any], answers: Answers, seconds: dict[str, float]) -> str:
    from eoforge.methods.evaluation.answers import answers_legend, band_filters, tie_note

    pages = {"compression": "Compression: original, decoded, difference", **PAGES}
    links = concat(
        element("p", element("a", title, href=f"{name}.html", target="_blank")) for name, title in pages.items()
    )
    timing = report.table(("stage", "seconds"), seconds.items())
    index = answers.index
    distances = ([hit.distance for hit in answer.hits] for answer in answers.answers)
    ties = tie_note(distances, index.bits, "their patch ids")
    facts = report.table(
        ("", "value"),
        [
            ("method", index.method),
            ("bundle", index.bundle_id[:16]),
            ("bits per code", index.bits),
            ("patches version", index.patches_version),
            *((f"codes of {SENSOR[m]}", n) for m, n in index.patches.items()),
        ],
    )
    return report.page(
        "eoforge demo",
        "From an archive to answered queries: radar patches find optical ones and the other way round.",
        [
            report.tiles(
                {
                    "patch pairs ingested": f"{figures['patches_in'] - figures['quarantined']:,}",
                    "patches quarantined": f"{figures['quarantined']:,}",
                    "median search over gRPC": f"{figures['search_p50_ms']} ms",
                    "the whole job": f"{figures['seconds']:.0f} s",
                }
            ),
            band_filters(),
            report.section("Answered by the running service", answers_legend(), ties, *map(_answer, answers.answers)),
            report.section("Retrieval quality", report.table(("metric", "value"), metrics.items())),
            report.section("Index and time", facts, timing),
            report.section("Further pages", links),
        ],
        footer="The archive is synthetic unless the demo was given another. Times belong to this machine.",
    )


def _answer(answer: Answer) -> Html:
    from eoforge.methods.evaluation.answers import patch_card

    title = (
        f"query {SENSOR[answer.source]}, hits {SENSOR[answer.target]}: {answer.condition} "
        f"({answer.milliseconds:.0f} ms with pictures)"
    )
    query, info = answer.query, answer.query.info
    png = query.s1_thumbnail_png if answer.source == "s1" else query.s2_thumbnail_png
    own = patch_card(png, info.patch_id, f"query · {info.country}", info.labels, info.labels, answer.source, "query")
    cards = concat([own, *(_hit_card(hit, answer) for hit in answer.hits)])
    return concat([element("p", title), element("div", cards, class_="row")])


def _hit_card(hit: Hit, answer: Answer) -> Html:
    from eoforge.methods.evaluation.answers import patch_card

    wanted = answer.query.info.labels
    partner = hit.patch_id == answer.query.info.patch_id
    kind = "partner" if partner else "" if set(wanted) & set(hit.labels) else "miss"
    caption = f"{hit.distance} · {hit.country} · {hit.acquired:%Y-%m-%d}"
    return patch_card(hit.thumbnail_png, hit.patch_id, caption, hit.labels, wanted, answer.target, kind)
