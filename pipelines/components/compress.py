"""Steps of archive compression: plan, compress shards, commit."""

# mypy: disable-error-code="valid-type,call-arg,empty-body,return-value"
# kfp reads named outputs from a NamedTuple call in the annotation, which mypy takes for an invalid type.

from typing import NamedTuple

from kfp.dsl import Dataset, Metrics, Output

from pipelines.components._component import component


# kfp.local iterates only over a task output that is called "Output".
@component
def plan_compress(
    bundle: str, table: str, version: str, streams: str, quality: str, max_error: str, shard_rows: int
) -> NamedTuple("Plan", [("job_id", str), ("streams_table", str), ("Output", list[str])]):
    """Plan of a compression, stored beside its table.

    Args:
        bundle: Run bundle of the codec, or of the codes of bounded streams.
        table: Lance table of patches.
        version: Version of the table to compress; empty for the newest.
        streams: Lance table for the streams; "{bundle}" becomes the short id of the bundle.
        quality: Quality step of the codec; empty for the middle one.
        max_error: Limit of the error of every pixel as "DN,dB", instead of a quality; "0" is lossless.
        shard_rows: Patches per shard.

    Returns:
        job_id: Id of the plan and the manifests in the store.
        streams_table: Table of streams, with the id of the bundle.
        Output: At most 64 shard ranges, each "job id:first shard:number of shards".
    """
    from eoforge.codec.coder import parse_rate
    from eoforge.index.streams import plan_streams
    from eoforge.storage.addresses import TableRef
    from pipelines.lineage import codes_uri
    from pipelines.ranges import shard_ranges

    target = codes_uri(streams, bundle)
    ref = TableRef(table, int(version) if version else None)
    plan = plan_streams(bundle, ref, target, parse_rate(quality, max_error), shard_rows=int(shard_rows))
    print(f"{plan.shards} shards, job {plan.job_id}, streams {target}")
    ranges = shard_ranges(plan.job_id, plan.shards)
    return (plan.job_id, target, ranges)


@component
def compress_range(bundle: str, streams: str, shard_range: str):
    """Compression of a range of shards; shards of an earlier attempt are skipped.

    Args:
        bundle: Run bundle of the plan.
        streams: Lance table for the streams; "{bundle}" becomes the short id of the bundle.
        shard_range: "job id:first shard:number of shards".
    """
    from eoforge.index.streams import compress_shards
    from eoforge.methods.codecs import open_archiver
    from pipelines.lineage import codes_uri
    from pipelines.ranges import ShardRange

    part = ShardRange.parse(shard_range)
    if not part.count:
        print("every patch has its streams")
        return
    coder, encoder = open_archiver(bundle)
    target = codes_uri(streams, bundle)
    print(compress_shards(target, part.job_id, part.first, part.count, coder, encoder))


@component
def commit_compress(streams_table: str, job_id: str, metrics: Output[Metrics], lineage: Output[Dataset]) -> str:
    """Commit of the new streams; a repeated call changes nothing.

    Args:
        streams_table: Lance table of streams.
        job_id: Job to commit.

    Returns:
        Output: Version of the table of streams.
        metrics: Number of streams.
        lineage: JSON with table of streams, version, rows and schema.
    """
    from eoforge.index.streams import commit_streams
    from pipelines.lineage import write_table_lineage

    version = commit_streams(streams_table, job_id).version
    facts = write_table_lineage(lineage.path, streams_table, version)
    lineage.metadata.update(facts)
    metrics.log_metric("streams", facts["rows"])
    return str(version)
