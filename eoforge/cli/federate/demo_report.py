"""Report of the federated demo: learning curves, silos, and the cost of the kills."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eoforge import report
from eoforge.federated.report import CURVES, sections

if TYPE_CHECKING:
    from eoforge.api.federation.v1 import federation_pb2 as pb
    from eoforge.cli.federate.across import Shared
    from eoforge.cli.federate.timeline import Timeline


def write_report(
    out: Path, run: pb.Run, timeline: Timeline, shared: Shared, seconds: dict[str, float]
) -> dict[str, Any]:
    """Writes ``report.html`` and ``report.json``.

    Args:
        out: Folder.
        run: The finished run.
        timeline: Record of the demo.
        shared: Search across the silos.
        seconds: Wall time by stage.

    Returns:
        The figures of ``report.json``, flat.
    """
    history = list(run.history)
    first, last = (dict(summary.evaluation) for summary in (history[0], history[-1]))
    figures: dict[str, Any] = {
        "report": str(out / "report.html"),
        "bundle": run.bundle_uri,
        "rounds": len(history),
        "silos": len(timeline.patches),
        "updates": sum(timeline.updates.values()),
        "kept_after_kill": len(timeline.kept),
        "resume_seconds": timeline.resume_seconds,
        "owners_answered": sum(owner.status == "ANSWERED" for owner in shared.answer.owners),
        "patches_searched": sum(owner.candidates for owner in shared.answer.owners),
        "megabytes_up": round(sum(s.bytes_up for s in history) / 1e6, 2),
        **{f"{name}_first_round": round(first[name], 4) for name in CURVES if name in first},
        **{f"{name}_last_round": round(last[name], 4) for name in CURVES if name in last},
        **{f"seconds_{name.partition(':')[0].replace(' ', '_')}": value for name, value in seconds.items()},
    }
    (out / "report.html").write_text(_page(figures, history, timeline, shared))
    (out / "report.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def _page(figures: dict[str, Any], history: Sequence[pb.RoundSummary], timeline: Timeline, shared: Shared) -> str:
    silos = report.table(
        ("silo", "training patches", "accepted updates"),
        [(s, n, timeline.updates[s]) for s, n in timeline.patches.items()],
    )
    return report.page(
        "eoforge federated demo",
        "Four archives that stay where they are learn one model; a silo and the coordinator were killed on the way.",
        [
            report.tiles(
                {
                    "rounds": str(figures["rounds"]),
                    "accepted updates": str(figures["updates"]),
                    "accepted before the coordinator was killed, and kept": str(figures["kept_after_kill"]),
                    "from that kill to the next event": f"{figures['resume_seconds']} s",
                }
            ),
            *sections(history),
            report.section("Silos", silos),
            report.section(f"One search across {len(shared.answer.owners)} archives", _across(shared)),
            report.section("What happened", report.table(("second", "event"), timeline.events)),
        ],
        footer=f"Synthetic archives; mutual TLS on loopback. The result is a run bundle: {figures['bundle']}",
    )


def _across(shared: Shared) -> report.Html:
    """Query, owners and hits of the search across the silos."""
    sensor = {"s1": "Sentinel-1", "s2": "Sentinel-2"}[shared.sensor]
    return report.concat(
        [
            report.element(
                "p", f"{shared.asker} asks by the {sensor} image of {shared.patch_id}: its code travels, no patch does."
            ),
            report.table(("owner", "patches", "hits"), [(o.owner, o.candidates, o.hits) for o in shared.answer.owners]),
            report.table(
                ("distance", "owner", "patch", "labels"),
                [(h.distance, h.owner, h.patch_id, "; ".join(h.labels)) for h in shared.answer.hits],
            ),
        ]
    )
