"""``eoforge eval``: metrics of a run bundle."""

from __future__ import annotations

from typing import Annotated

import typer

from eoforge.cli.options import Data
from eoforge.cli.output import Json, emit


def evaluate(
    bundle: Annotated[str, typer.Argument(help="Run bundle: a path or s3:// URI.")],
    *,
    data: Data,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Cut-off of the metrics.")] = 10,
    out: Annotated[str | None, typer.Option(help="Folder for metrics.json and report.html.")] = None,
    json: Json = False,
) -> None:
    """Evaluate a bundle by its tasks: retrieval, labels, maps, compression; with a report."""
    from eoforge.bundle import load_bundle
    from eoforge.methods.evaluation.run import evaluate as run
    from eoforge.storage.addresses import TableRef

    emit(run(load_bundle(bundle), TableRef.parse(data), k=k, out=out), title="evaluation")
