"""Step of evaluation: retrieval in four directions, with images."""

from kfp.dsl import HTML, Markdown, Metrics, Output

from pipelines.components._component import component


@component
def evaluate(
    bundle: str,
    table: str,
    version: str,
    k: int,
    report: Output[HTML],
    overview: Output[Markdown],
    metrics: Output[Metrics],
):
    """Evaluation of a bundle: queries from the validation split, gallery from the test split.

    Args:
        bundle: Run bundle to evaluate.
        table: Lance table of patches.
        version: Version of the table; empty for the newest.
        k: Cut-off of the metrics.

    Returns:
        report: Queries, hits and distances, one self-contained page.
        overview: Table of the metrics, with those of random codes and the untrained network.
        metrics: The metrics as numbers.
    """
    from pathlib import Path

    from pipelines.reports.retrieval import evaluate_bundle

    result = evaluate_bundle(bundle, table, version, int(k))
    Path(report.path).write_text(result.html)
    Path(overview.path).write_text(result.markdown)
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
