"""``eoforge runs``: the bundles below a folder."""

from __future__ import annotations

from typing import Annotated

import typer

from eoforge.cli.output import Json, emit_rows, say


def runs(
    folder: Annotated[str, typer.Argument(metavar="RUNS", help="Folder or s3:// prefix of run bundles.")],
    json: Json = False,
) -> None:
    """List the run bundles below a folder, newest first: method, date (UTC), training data, validation score."""
    from eoforge.bundle import list_bundles

    found = list_bundles(folder)
    rows = [
        {
            "bundle": b.bundle,
            "method": b.method,
            "date": f"{b.date:%Y-%m-%d %H:%M:%S}",
            "data": b.data,
            "score": b.score if b.score is None else round(b.score, 4),
            "metric": b.metric,
        }
        for b in found
    ]
    emit_rows(rows, title="run bundles")
    if not rows:
        say(f"no run bundle below {folder}; training writes one when it has ended")
