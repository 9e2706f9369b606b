"""``eoforge predict``: labels and maps, or values, of a table of patches."""

from __future__ import annotations

from typing import Annotated

import typer

from eoforge.cli.output import Json, emit


def predict(
    bundle: Annotated[str, typer.Argument(help="Run bundle that classifies, segments or regresses.")],
    table: Annotated[str, typer.Argument(help="TABLE or TABLE@VERSION with the patches.")],
    predictions: Annotated[str, typer.Argument(help="Lance table for the predictions.")],
    shard_rows: Annotated[int, typer.Option(min=1, help="Patches per shard, the unit of a retry.")] = 4096,
    json: Json = False,
) -> None:
    """Predict every patch of a table (labels and maps, or a value), exactly once; run it again after a crash."""
    from eoforge.bundle import load_bundle
    from eoforge.index.predictions import predict_table
    from eoforge.methods.prediction import open_predictor
    from eoforge.storage.addresses import TableRef

    predictor = open_predictor(load_bundle(bundle))
    summary = predict_table(bundle, TableRef.parse(table), predictions, predictor, shard_rows)
    emit({"predictions" if key == "codes" else key: value for key, value in vars(summary).items()}, title="predicted")
