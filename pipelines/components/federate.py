"""Step of federated training: starts a run on the coordinator and waits for its end."""

# mypy: disable-error-code="valid-type,call-arg,empty-body,return-value"
# kfp reads named outputs from a NamedTuple call in the annotation, which mypy takes for an invalid type.

from typing import NamedTuple

from kfp.dsl import HTML, Markdown, Metrics, Model, Output

from pipelines.components._component import component


@component
def federate(
    coordinator: str,
    run_id: str,
    method: str,
    preset: str,
    overrides: list[str],
    statistics: str,
    min_silos: int,
    quorum: int,
    deadline_minutes: float,
    rounds: Output[HTML],
    card: Output[Markdown],
    metrics: Output[Metrics],
    lineage: Output[Model],
) -> NamedTuple("Federated", [("bundle", str), ("bundle_id", str)]):
    """Federated run, started and awaited; a repeated step waits for the same run.

    Args:
        coordinator: HOST:PORT of the federation service.
        run_id: Name of the run.
        method: Method that silos train, for example fl_rs.
        preset: tiny or paper.
        overrides: Configuration overrides, each "key=value".
        statistics: Lance table of patches whose band statistics all silos use for normalisation.
        min_silos: Number of connected silos that opens a round.
        quorum: Minimum number of updates of a round; 0 for min_silos.
        deadline_minutes: Time after which a round with a quorum is sealed; 0 for no deadline.

    Returns:
        bundle: URI of the run bundle.
        bundle_id: sha256 of its manifest.
        rounds: Curves and table of the rounds, one self-contained page.
        card: Model card.
        metrics: Metrics of the silos after the last round.
        lineage: JSON with the bundle, its seed, and the image.
    """
    from pathlib import Path

    from eoforge.bundle import CARD, load_bundle
    from eoforge.federated.report import run_page
    from pipelines.federation import federate as run_federation
    from pipelines.lineage import write_bundle_lineage

    run = run_federation(
        coordinator,
        run_id,
        method,
        preset,
        dict(pair.split("=", 1) for pair in overrides),
        statistics,
        min_silos=int(min_silos),
        quorum=int(quorum),
        deadline_minutes=float(deadline_minutes),
    )
    bundle = load_bundle(run.bundle_uri)
    Path(rounds.path).write_text(run_page(run))
    Path(card.path).write_text(bundle.read(CARD).decode())
    for name, value in run.history[-1].evaluation.items():
        metrics.log_metric(name, value)
    lineage.metadata.update(write_bundle_lineage(lineage.path, bundle))
    return (bundle.uri, bundle.id)
