"""Step of evaluation: all tasks of a bundle, with a page."""

from kfp.dsl import HTML, ClassificationMetrics, Markdown, Metrics, Output

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
    classes: Output[ClassificationMetrics],
):
    """Evaluation of a bundle on the test split; queries of retrieval come from the validation split.

    Args:
        bundle: Run bundle to evaluate.
        table: Lance table of patches.
        version: Version of the table; empty for the newest.
        k: Cut-off of the metrics.

    Returns:
        report: Retrieval, labels and maps, as the bundle can, one self-contained page.
        overview: Table of the metrics, with those of random codes and the untrained network.
        metrics: The metrics as numbers.
        classes: Receiver operating characteristic and confusion of labels or pixels; empty for other bundles.
    """
    from pathlib import Path

    from pipelines.reports.retrieval import evaluate_bundle

    result = evaluate_bundle(bundle, table, version, int(k))
    Path(report.path).write_text(result.html)
    Path(overview.path).write_text(result.markdown)
    for name, value in result.metrics.items():
        metrics.log_metric(name, value)
    found = result.classes
    if found.fpr:
        classes.log_roc_curve(found.fpr, found.tpr, found.threshold)
    if found.matrix:
        classes.log_confusion_matrix(found.categories, found.matrix)
