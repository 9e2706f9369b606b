"""Steps of prediction: plan, predict shards, commit."""

# mypy: disable-error-code="valid-type,call-arg,empty-body,return-value"
# kfp reads named outputs from a NamedTuple call in the annotation, which mypy takes for an invalid type.

from typing import NamedTuple

from kfp.dsl import Dataset, Metrics, Output

from pipelines.components._component import component


# kfp.local iterates only over a task output that is called "Output".
@component
def plan_predict(bundle: str, table: str, version: str, predictions: str, shard_rows: int) -> NamedTuple(
    "Plan", [("job_id", str), ("predictions_table", str), ("Output", list[str])]
):
    """Plan of a prediction, stored beside its table.

    Args:
        bundle: Run bundle that classifies, segments or regresses.
        table: Lance table of patches.
        version: Version of the table; empty for the newest.
        predictions: Lance table for the predictions; "{bundle}" becomes the short id of the bundle.
        shard_rows: Patches per shard.

    Returns:
        job_id: Id of the plan and the manifests in the store.
        predictions_table: Table of predictions, with the id of the bundle.
        Output: At most 64 shard ranges, each "job id:first shard:number of shards".
    """
    from eoforge.bundle import load_bundle
    from eoforge.index.predictions import plan_predictions
    from eoforge.methods.prediction import open_predictor
    from eoforge.storage.addresses import TableRef
    from pipelines.lineage import codes_uri
    from pipelines.ranges import shard_ranges

    target = codes_uri(predictions, bundle)
    ref = TableRef(table, int(version) if version else None)
    predictor = open_predictor(load_bundle(bundle), "cpu")
    plan = plan_predictions(bundle, ref, target, predictor, shard_rows=int(shard_rows))
    print(f"{plan.shards} shards, job {plan.job_id}, predictions {target}")
    return (plan.job_id, target, shard_ranges(plan.job_id, plan.shards))


@component
def predict_range(bundle: str, predictions: str, shard_range: str):
    """Prediction of a range of shards; shards of an earlier attempt are skipped.

    Args:
        bundle: Run bundle of the plan.
        predictions: Lance table for the predictions; "{bundle}" becomes the short id of the bundle.
        shard_range: "job id:first shard:number of shards".
    """
    from eoforge.bundle import load_bundle
    from eoforge.index.predictions import predict_shards
    from eoforge.methods.prediction import open_predictor
    from pipelines.lineage import codes_uri
    from pipelines.ranges import ShardRange

    part = ShardRange.parse(shard_range)
    if not part.count:
        print("every patch has its prediction")
        return
    predictor = open_predictor(load_bundle(bundle))
    print(predict_shards(codes_uri(predictions, bundle), part.job_id, part.first, part.count, predictor))


@component
def commit_predict(predictions_table: str, job_id: str, metrics: Output[Metrics], lineage: Output[Dataset]) -> str:
    """Commit of the new predictions; a repeated call changes nothing.

    Args:
        predictions_table: Lance table of predictions.
        job_id: Job to commit.

    Returns:
        Output: Version of the table of predictions.
        metrics: Number of predictions, and of patches that lack a sensor of the bundle and so have none.
        lineage: JSON with table of predictions, version, rows and schema.
    """
    from eoforge.index.predictions import commit_predictions
    from pipelines.lineage import write_table_lineage

    summary = commit_predictions(predictions_table, job_id)
    facts = write_table_lineage(lineage.path, predictions_table, summary.version)
    lineage.metadata.update(facts)
    metrics.log_metric("predictions", facts["rows"])
    metrics.log_metric("incomplete", summary.incomplete)
    return str(summary.version)
