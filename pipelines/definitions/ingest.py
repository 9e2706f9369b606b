"""Pipeline archive -> patches table: plan, shards in parallel, commit, indexes and statistics, quality report."""

# mypy: disable-error-code="valid-type,call-arg,empty-body,return-value"
# kfp reads named outputs from a NamedTuple call in the annotation, which mypy takes for an invalid type.

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import HTML

from pipelines.components import ingest as steps
from pipelines.definitions.placement import place
from pipelines.settings import INGEST_PARALLELISM


@dsl.pipeline(
    name="eoforge-ingest",
    display_name="Ingest an archive",
    description="Ingest a reBEN archive into a Lance table, exactly once.",
)
def ingest(archive: str, table: str, shard_rows: int = 1024, strict: bool = False) -> NamedTuple(
    "Ingested", [("version", str), ("summary", str), ("quality", HTML)]
):
    """Pipeline of the ingestion of an archive; a repeated run adds only missing patches.

    Args:
        archive: Directory or s3:// prefix in the official reBEN layout, folder of .tar files, or rico-hdl LMDB.
        table: Lance table to create or grow, for example s3://lake/patches.lance.
        shard_rows: Limit of patches per shard, the unit of a retry, and minimum of patches per pod.
        strict: Refuse the whole archive, and write nothing, if one patch is bad.

    Returns:
        version: Version of the table, with its indexes.
        summary: Counts of this ingestion as JSON.
        quality: Quality report.
    """
    from collections import namedtuple

    plan = place(
        steps.plan_ingest(archive=archive, table=table, shard_rows=shard_rows, strict=strict),
        cpu="4",
        memory="8Gi",
        hours=24,
    )
    with dsl.ParallelFor(plan.outputs["Output"], parallelism=INGEST_PARALLELISM) as shard_range:
        part = place(steps.ingest_range(table=table, shard_range=shard_range), cpu="4", memory="8Gi", hours=24)
    commit = place(steps.commit_ingest(table=table, ingest_id=plan.outputs["ingest_id"]))
    commit.after(part)
    finish = place(
        steps.finish_table(table=table, committed_version=commit.outputs["version"]), cpu="4", memory="16Gi", hours=12
    )
    report = place(steps.quality_report(table=table, version=finish.output, summary=commit.outputs["summary"]))
    return namedtuple("Ingested", ["version", "summary", "quality"])(
        finish.output, commit.outputs["summary"], report.outputs["report"]
    )
