"""Steps of indexing: plan, encode shards, commit."""

# mypy: disable-error-code="valid-type,call-arg,empty-body,return-value"
# kfp reads named outputs from a NamedTuple call in the annotation, which mypy takes for an invalid type.

from typing import NamedTuple

from kfp.dsl import Artifact, Metrics, Output

from pipelines.components._component import component


# kfp.local iterates only over a task output that is called "Output".
@component
def plan_index(bundle: str, table: str, version: str, codes: str, shard_rows: int) -> NamedTuple(
    "Plan", [("job_id", str), ("codes_table", str), ("Output", list[str])]
):
    """Writes the plan of an index next to its table.

    Args:
        bundle: Run bundle that encodes.
        table: Lance table of patches.
        version: Version of it to index; empty for the newest.
        codes: Lance table for the codes; "{bundle}" in it becomes the bundle's short id.
        shard_rows: Patches per shard.

    Returns:
        job_id: Names the plan and the manifests in the store.
        codes_table: Table of codes, with the bundle's id filled in.
        Output: At most 64 shard ranges, each "job id:first shard:number of shards".
    """
    from eoforge.index.build import plan_index as plan
    from eoforge.storage.addresses import TableRef
    from pipelines.lineage import codes_uri
    from pipelines.ranges import shard_ranges

    target = codes_uri(codes, bundle)
    ref = TableRef(table, int(version) if version else None)
    made = plan(bundle, ref, target, shard_rows=int(shard_rows))
    print(f"{made.shards} shards, job {made.job_id}, codes {target}")
    ranges = shard_ranges(made.job_id, made.shards)
    return (made.job_id, target, ranges)


@component
def encode_range(bundle: str, codes: str, shard_range: str):
    """Encodes a range of shards; shards that an earlier attempt finished are skipped.

    Args:
        bundle: Run bundle that encodes.
        codes: Lance table for the codes; "{bundle}" in it becomes the bundle's short id.
        shard_range: "job id:first shard:number of shards".
    """
    from eoforge.bundle import load_bundle
    from eoforge.index.build import encode_shards
    from eoforge.methods import get_method
    from pipelines.lineage import codes_uri
    from pipelines.ranges import ShardRange

    part = ShardRange.parse(shard_range)
    if not part.count:
        print("every patch has its codes already")
        return
    loaded = load_bundle(bundle)
    encoder = get_method(loaded.config["method"]).load(loaded)
    print(encode_shards(codes_uri(codes, bundle), part.job_id, part.first, part.count, encoder))


@component
def commit_index(codes_table: str, job_id: str, metrics: Output[Metrics], lineage: Output[Artifact]) -> str:
    """Makes the new codes visible in one commit; doing it again changes nothing.

    Args:
        codes_table: Lance table of codes.
        job_id: Which index job to commit.

    Returns:
        Output: Version of the table of codes.
        metrics: Number of codes.
        lineage: Small JSON that names table of codes, version, rows and schema.
    """
    from eoforge.index.build import commit_index as commit
    from pipelines.lineage import write_table_lineage

    version = commit(codes_table, job_id)
    facts = write_table_lineage(lineage.path, codes_table, version)
    lineage.metadata.update(facts)
    metrics.log_metric("codes", facts["rows"])
    return str(version)
