"""Pipeline run bundle + patches table -> predictions table: prediction of shards in parallel, one commit."""

# mypy: disable-error-code="valid-type,call-arg,empty-body,return-value"
# kfp reads named outputs from a NamedTuple call in the annotation, which mypy takes for an invalid type.

from typing import NamedTuple

from kfp import dsl

from pipelines.components import predict as steps
from pipelines.definitions.placement import encode_in_shards, place


@dsl.pipeline(
    name="eoforge-predict",
    display_name="Predict a table",
    description="Predict labels and maps, or a value, of every patch of a table, exactly once.",
)
def predict(bundle: str, table: str, predictions: str, version: str = "", shard_rows: int = 4096) -> NamedTuple(
    "Predicted", [("predictions_table", str), ("predictions_version", str)]
):
    """Pipeline of the prediction of a table; a repeated run adds only missing predictions.

    Args:
        bundle: Run bundle that classifies, segments or regresses.
        table: Lance table of patches.
        predictions: Lance table for the predictions, for example s3://lake/predictions-{bundle}.lance; "{bundle}"
            becomes the short id of the bundle, so that each bundle has its own table.
        version: Version of the patches table; empty for the newest.
        shard_rows: Patches per shard.

    Returns:
        predictions_table: Table of predictions, with the id of the bundle.
        predictions_version: Version of the table of predictions.
    """
    from collections import namedtuple

    plan = place(
        steps.plan_predict(bundle=bundle, table=table, version=version, predictions=predictions, shard_rows=shard_rows)
    )
    commit = encode_in_shards(
        plan,
        lambda shard_range: steps.predict_range(bundle=bundle, predictions=predictions, shard_range=shard_range),
        lambda: steps.commit_predict(
            predictions_table=plan.outputs["predictions_table"], job_id=plan.outputs["job_id"]
        ),
    )
    return namedtuple("Predicted", ["predictions_table", "predictions_version"])(
        plan.outputs["predictions_table"], commit.outputs["Output"]
    )
