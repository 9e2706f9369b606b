"""Steps of ingestion: plan, write shards, commit, finish, report."""

# mypy: disable-error-code="valid-type,call-arg,empty-body,return-value"
# kfp reads named outputs from a NamedTuple call in the annotation, which mypy takes for an invalid type.

from typing import NamedTuple

from kfp.dsl import HTML, Dataset, Markdown, Metrics, Output

from pipelines.components._component import component


# kfp.local iterates only over a task output that is called "Output".
@component
def plan_ingest(archive: str, table: str, shard_rows: int, strict: bool) -> NamedTuple(
    "Plan", [("ingest_id", str), ("Output", list[str])]
):
    """Plan of an ingestion from the metadata of the archive (with strict, after full validation), beside the table.

    Args:
        archive: Directory or s3:// prefix in the official reBEN layout, folder of .tar files, or rico-hdl LMDB.
        table: Lance table to create or grow, a path or s3:// URI.
        shard_rows: Limit of patches per shard, and minimum of patches per range.
        strict: Refuse the whole archive if one patch is bad.

    Returns:
        ingest_id: Id of the plan and the manifests in the store; the same archive and options give the same id.
        Output: At most 64 shard ranges, each "ingest id:first shard:number of shards".
    """
    from eoforge.data.ingest.run import plan_ingest as plan
    from pipelines.ranges import range_limit, shard_ranges

    ingest_plan = plan(archive, table, shard_rows=int(shard_rows), strict=strict, workers=4)
    print(f"{ingest_plan.rows} patches in {ingest_plan.shards} shards, ingestion {ingest_plan.ingest_id}")
    ranges = shard_ranges(ingest_plan.ingest_id, ingest_plan.shards, range_limit(ingest_plan.rows, int(shard_rows)))
    return (ingest_plan.ingest_id, ranges)


@component
def ingest_range(table: str, shard_range: str):
    """Reading, validation and writing of a range of shards; shards of an earlier attempt are skipped.

    Args:
        table: Lance table that grows.
        shard_range: "ingest id:first shard:number of shards".
    """
    from eoforge.data.ingest.run import ingest_shards
    from pipelines.ranges import ShardRange

    part = ShardRange.parse(shard_range)
    print(ingest_shards(table, part.job_id, part.first, part.count))


@component
def commit_ingest(table: str, ingest_id: str, metrics: Output[Metrics], lineage: Output[Dataset]) -> NamedTuple(
    "Commit", [("version", str), ("summary", str)]
):
    """Commit of the new patches; a repeated call changes nothing.

    Args:
        table: Lance table that grows.
        ingest_id: Ingestion to commit.

    Returns:
        version: Version of the table with the new patches.
        summary: Counts of this ingestion as JSON; every input patch is in exactly one of them.
        metrics: The same counts, as numbers.
        lineage: JSON with table, version, rows and schema; the table itself stays in its store.
    """
    import json
    from dataclasses import asdict

    from eoforge.data.ingest.run import commit_ingest as commit
    from pipelines.lineage import write_table_lineage

    result = commit(table, ingest_id)
    for name in ("patches_in", "added", "unchanged", "changed", "quarantined", "duplicates", "warnings"):
        metrics.log_metric(name, getattr(result, name))
    lineage.metadata.update(write_table_lineage(lineage.path, table, result.version))
    # The names of changed patches stay in the store: only counts are small for every archive.
    summary = {key: value for key, value in asdict(result).items() if key != "changed_ids"}
    return (str(result.version), json.dumps(summary))


@component
def finish_table(table: str, committed_version: str) -> str:
    """Update of the scalar indexes and band statistics of the newest version.

    Args:
        table: Lance table of patches.
        committed_version: Version of the commit, which the indexes include.

    Returns:
        Output: Version of the table with its indexes, for the following steps.
    """
    from eoforge.data.ingest.run import finish_table as finish

    version = finish(table)
    print(f"{table}: committed {committed_version}, finished {version}")
    return str(version)


@component
def quality_report(
    table: str, version: str, summary: str, report: Output[HTML], overview: Output[Markdown], metrics: Output[Metrics]
):
    """Quality report of an ingestion: counts, class balance, quarantine, thumbnails, map, band statistics.

    Args:
        table: Lance table of patches.
        version: Version to report on.
        summary: Counts of the ingestion as JSON.

    Returns:
        report: One self-contained page.
        overview: Counts and quarantine reasons.
        metrics: Number of patches per split.
    """
    import json
    from pathlib import Path

    from eoforge.storage.addresses import TableRef
    from pipelines.reports.quality import collect, quality_markdown
    from pipelines.reports.quality_page import quality_html

    quality = collect(TableRef(table, int(version)), json.loads(summary))
    Path(report.path).write_text(quality_html(quality))
    Path(overview.path).write_text(quality_markdown(quality))
    for split, count in quality.splits.items():
        metrics.log_metric(f"patches_{split}", count)
