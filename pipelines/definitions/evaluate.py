"""Pipeline run bundle + patches table -> report."""

# mypy: disable-error-code="valid-type,call-arg,empty-body,return-value"
# kfp reads named outputs from a NamedTuple call in the annotation, which mypy takes for an invalid type.

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import HTML, Markdown

from pipelines.components.evaluate import evaluate as evaluate_step
from pipelines.definitions.placement import place


@dsl.pipeline(
    name="eoforge-evaluate",
    display_name="Evaluate a bundle",
    description="Measure all tasks of a run bundle: retrieval, labels, maps.",
)
def evaluate(bundle: str, table: str, version: str = "", k: int = 10) -> NamedTuple(
    "Evaluated", [("report", HTML), ("overview", Markdown)]
):
    """Pipeline of the evaluation of a bundle on the test split; queries of retrieval come from the validation split.

    Args:
        bundle: Run bundle to evaluate.
        table: Lance table of patches.
        version: Version of the table; empty for the newest.
        k: Cut-off of the metrics.

    Returns:
        report: Retrieval, labels and maps, as the bundle can.
        overview: Table of the metrics.
    """
    from collections import namedtuple

    task = place(
        evaluate_step(bundle=bundle, table=table, version=version, k=k), cpu="8", memory="32Gi", gpu=True, hours=12
    )
    return namedtuple("Evaluated", ["report", "overview"])(task.outputs["report"], task.outputs["overview"])
