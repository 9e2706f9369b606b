"""Pipeline run bundle + patches table -> retrieval report."""

# mypy: disable-error-code="valid-type,call-arg,empty-body,return-value"
# kfp reads named outputs from a NamedTuple call in the annotation, which mypy takes for an invalid type.

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import HTML, Markdown

from pipelines.components.evaluate import evaluate as evaluate_step
from pipelines.definitions.placement import place


@dsl.pipeline(
    name="eoforge-evaluate",
    display_name="Evaluate retrieval",
    description="Measure retrieval with a run bundle and show queries and hits.",
)
def evaluate(bundle: str, table: str, version: str = "", k: int = 10) -> NamedTuple(
    "Evaluated", [("report", HTML), ("overview", Markdown)]
):
    """Pipeline of the evaluation of a bundle: queries from the validation split, gallery from the test split.

    Args:
        bundle: Run bundle to evaluate.
        table: Lance table of patches.
        version: Version of the table; empty for the newest.
        k: Cut-off of the metrics.

    Returns:
        report: Queries, hits and distances.
        overview: Table of the metrics.
    """
    from collections import namedtuple

    task = place(
        evaluate_step(bundle=bundle, table=table, version=version, k=k), cpu="8", memory="32Gi", gpu=True, hours=12
    )
    return namedtuple("Evaluated", ["report", "overview"])(task.outputs["report"], task.outputs["overview"])
