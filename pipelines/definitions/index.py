"""Pipeline run bundle + patches table -> codes table: encoding of shards in parallel, one commit."""

# mypy: disable-error-code="valid-type,call-arg,empty-body,return-value"
# kfp reads named outputs from a NamedTuple call in the annotation, which mypy takes for an invalid type.

from typing import NamedTuple

from kfp import dsl

from pipelines.components import index as steps
from pipelines.definitions.placement import encode_in_shards, place


@dsl.pipeline(
    name="eoforge-index",
    display_name="Index a table",
    description="Encode every patch of a table into binary codes, exactly once.",
)
def index(
    bundle: str, table: str, codes: str, version: str = "", shard_rows: int = 4096, engine: str = ""
) -> NamedTuple("Indexed", [("codes_table", str), ("codes_version", str)]):
    """Pipeline of the encoding of a table; a repeated run adds only missing codes.

    Args:
        bundle: Run bundle of the encoder.
        table: Lance table of patches.
        codes: Lance table for the codes, for example s3://lake/codes-{bundle}.lance; "{bundle}" becomes the short
            id of the bundle, so that each bundle has its own table.
        version: Version of the patches table; empty for the newest.
        shard_rows: Patches per shard.
        engine: exact, or ivf for a table that the pipeline index_ivf builds an index of; empty for that of the table.

    Returns:
        codes_table: Table of codes, with the id of the bundle.
        codes_version: Version of the table of codes.
    """
    from collections import namedtuple

    plan = place(
        steps.plan_index(bundle=bundle, table=table, version=version, codes=codes, shard_rows=shard_rows, engine=engine)
    )
    commit = encode_in_shards(
        plan,
        lambda shard_range: steps.encode_range(bundle=bundle, codes=codes, shard_range=shard_range),
        lambda: steps.commit_index(codes_table=plan.outputs["codes_table"], job_id=plan.outputs["job_id"]),
    )
    return namedtuple("Indexed", ["codes_table", "codes_version"])(
        plan.outputs["codes_table"], commit.outputs["Output"]
    )
