"""Pipeline run bundle + patches table -> streams table: compression of shards in parallel, one commit."""

# mypy: disable-error-code="valid-type,call-arg,empty-body,return-value"
# kfp reads named outputs from a NamedTuple call in the annotation, which mypy takes for an invalid type.

from typing import NamedTuple

from kfp import dsl

from pipelines.components import compress as steps
from pipelines.definitions.placement import encode_in_shards, place


@dsl.pipeline(
    name="eoforge-compress-archive",
    display_name="Compress an archive",
    description="Compress every patch of a table into streams that carry their binary codes, exactly once.",
)
def compress_archive(
    bundle: str,
    table: str,
    streams: str,
    version: str = "",
    quality: str = "",
    max_error: str = "",
    shard_rows: int = 1024,
) -> NamedTuple("Compressed", [("streams_table", str), ("streams_version", str)]):
    """Pipeline of the compression of a table; a repeated run adds only missing streams.

    Args:
        bundle: Run bundle of the codec, or of the codes of bounded streams.
        table: Lance table of patches.
        streams: Lance table for the streams, for example s3://lake/streams-{bundle}.lance; "{bundle}" becomes the
            short id of the bundle, so that each bundle has its own table.
        version: Version of the patches table; empty for the newest.
        quality: Quality step of the codec; empty for the middle one.
        max_error: Limit of the error of every pixel as "DN,dB", instead of a quality; "0" is lossless.
        shard_rows: Patches per shard.

    Returns:
        streams_table: Table of streams, with the id of the bundle.
        streams_version: Version of the table of streams.
    """
    from collections import namedtuple

    plan = place(
        steps.plan_compress(
            bundle=bundle,
            table=table,
            version=version,
            streams=streams,
            quality=quality,
            max_error=max_error,
            shard_rows=shard_rows,
        )
    )
    commit = encode_in_shards(
        plan,
        lambda shard_range: steps.compress_range(bundle=bundle, streams=streams, shard_range=shard_range),
        lambda: steps.commit_compress(streams_table=plan.outputs["streams_table"], job_id=plan.outputs["job_id"]),
    )
    return namedtuple("Compressed", ["streams_table", "streams_version"])(
        plan.outputs["streams_table"], commit.outputs["Output"]
    )
