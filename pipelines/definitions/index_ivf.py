"""Pipeline run bundle + patches table -> codes table with an IVF index: codes first, then the index in shards."""

# mypy: disable-error-code="valid-type,call-arg,empty-body,return-value"
# kfp reads named outputs from a NamedTuple call in the annotation, which mypy takes for an invalid type.

from typing import NamedTuple

from kfp import dsl

from pipelines.components import index as steps
from pipelines.definitions.index import index
from pipelines.definitions.placement import place
from pipelines.settings import ENCODE_PARALLELISM


@dsl.pipeline(
    name="eoforge-index-ivf",
    display_name="Index a table for IVF",
    description="Encode every patch of a table, and build Lance's vector index over the codes, for large archives.",
)
def index_ivf(bundle: str, table: str, codes: str, version: str = "", shard_rows: int = 4096) -> NamedTuple(
    "Indexed", [("codes_table", str), ("codes_version", str)]
):
    """Pipeline of the encoding of a table and of its IVF index; a repeated run adds what is missing.

    Args:
        bundle: Run bundle of the encoder.
        table: Lance table of patches.
        codes: Lance table for the codes, for example s3://lake/codes-{bundle}.lance; "{bundle}" becomes the short
            id of the bundle, so that each bundle has its own table.
        version: Version of the patches table; empty for the newest.
        shard_rows: Patches per shard.

    Returns:
        codes_table: Table of codes, with the id of the bundle.
        codes_version: Version of the table of codes, with its index.
    """
    from collections import namedtuple

    coded = index(bundle=bundle, table=table, codes=codes, version=version, shard_rows=shard_rows, engine="ivf")
    coded.set_caching_options(False)
    made = coded.outputs["codes_table"]
    plan = place(steps.plan_ivf(codes_table=made, codes_version=coded.outputs["codes_version"]), cpu="8", memory="16Gi")
    with dsl.ParallelFor(plan.outputs["Output"], parallelism=ENCODE_PARALLELISM) as shard_range:
        part = place(steps.ivf_range(bundle=bundle, codes=codes, shard_range=shard_range), cpu="8", memory="16Gi")
    commit = place(steps.commit_ivf(codes_table=made, job_id=plan.outputs["job_id"]), memory="16Gi")
    commit.after(part)
    return namedtuple("Indexed", ["codes_table", "codes_version"])(made, commit.outputs["Output"])
