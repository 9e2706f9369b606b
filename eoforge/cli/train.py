"""``eoforge train``: a method on a table, to a run bundle."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from eoforge.cli.options import ConfigFile, Data, Overrides, parse_overrides
from eoforge.cli.output import Json, emit


def train(
    method: Annotated[str, typer.Argument(help="Name of the method, for example ss_cm_rsir.")],
    overrides: Overrides = None,
    *,
    data: Data,
    out: Annotated[str, typer.Option(help="Where run bundles go: a path or s3:// URI.")],
    preset: Annotated[
        str, typer.Option(help="tiny (a laptop's CPU, minutes) or paper (the published configuration).")
    ] = "tiny",
    config: ConfigFile = None,
    target: Annotated[
        str | None, typer.Option(help="What dml_s2r predicts: forest_share, a numeric column, a column of labels_file.")
    ] = None,
    labels: Annotated[
        float | None, typer.Option(help="Share of the training split that is labelled (dml_s2r).")
    ] = None,
    json: Json = False,
) -> None:
    """Train a method and write a run bundle; an interrupted run resumes where it stopped."""
    from eoforge.methods import get_method
    from eoforge.storage.addresses import TableRef

    chosen = get_method(method)
    options = {"target": target, "labels": labels}
    named = parse_overrides(overrides) | {key: str(value) for key, value in options.items() if value is not None}
    settings = chosen.config(preset, named, str(config) if config else None)
    bundle = chosen.train(TableRef.parse(data), out, settings)
    if os.environ.get("RANK", "0") == "0":  # under torchrun every rank gets here; one line of result is enough
        metrics = {k: v for k, v in bundle.metrics.items() if isinstance(v, int | float | str)}
        emit({"bundle": bundle.uri, "bundle_id": bundle.id, **metrics}, title="trained")
