"""Steps of indexing: plan, encode shards, commit; then, for the engine ivf, train, index shards, commit."""

# mypy: disable-error-code="valid-type,call-arg,empty-body,return-value"
# kfp reads named outputs from a NamedTuple call in the annotation, which mypy takes for an invalid type.

from typing import NamedTuple

from kfp.dsl import Dataset, Metrics, Output

from pipelines.components._component import component


# kfp.local iterates only over a task output that is called "Output".
@component
def plan_index(bundle: str, table: str, version: str, codes: str, shard_rows: int, engine: str) -> NamedTuple(
    "Plan", [("job_id", str), ("codes_table", str), ("Output", list[str])]
):
    """Plan of an index, stored beside its table.

    Args:
        bundle: Run bundle of the encoder.
        table: Lance table of patches.
        version: Version of the table to index; empty for the newest.
        codes: Lance table for the codes; "{bundle}" becomes the short id of the bundle.
        shard_rows: Patches per shard.
        engine: exact or ivf; empty for that of the table of codes, exact if it is new.

    Returns:
        job_id: Id of the plan and the manifests in the store.
        codes_table: Table of codes, with the id of the bundle.
        Output: At most 64 shard ranges, each "job id:first shard:number of shards".
    """
    from eoforge.index.build import plan_index as plan
    from eoforge.storage.addresses import TableRef
    from pipelines.lineage import codes_uri
    from pipelines.ranges import shard_ranges

    target = codes_uri(codes, bundle)
    ref = TableRef(table, int(version) if version else None)
    index_plan = plan(bundle, ref, target, shard_rows=int(shard_rows), engine=engine)
    print(f"{index_plan.shards} shards, job {index_plan.job_id}, codes {target}")
    ranges = shard_ranges(index_plan.job_id, index_plan.shards)
    return (index_plan.job_id, target, ranges)


@component
def encode_range(bundle: str, codes: str, shard_range: str):
    """Encoding of a range of shards; shards of an earlier attempt are skipped.

    Args:
        bundle: Run bundle of the encoder.
        codes: Lance table for the codes; "{bundle}" becomes the short id of the bundle.
        shard_range: "job id:first shard:number of shards".
    """
    from eoforge.bundle import load_bundle
    from eoforge.index.build import encode_shards
    from eoforge.methods import get_method
    from pipelines.lineage import codes_uri
    from pipelines.ranges import ShardRange

    part = ShardRange.parse(shard_range)
    if not part.count:
        print("every patch has its codes")
        return
    loaded = load_bundle(bundle)
    encoder = get_method(loaded.config["method"]).load(loaded)
    print(encode_shards(codes_uri(codes, bundle), part.job_id, part.first, part.count, encoder))


@component
def commit_index(codes_table: str, job_id: str, metrics: Output[Metrics], lineage: Output[Dataset]) -> str:
    """Commit of the new codes; a repeated call changes nothing.

    Args:
        codes_table: Lance table of codes.
        job_id: Index job to commit.

    Returns:
        Output: Version of the table of codes.
        metrics: Number of codes.
        lineage: JSON with table of codes, version, rows and schema.
    """
    from eoforge.index.build import commit_index as commit
    from pipelines.lineage import write_table_lineage

    version = commit(codes_table, job_id)
    facts = write_table_lineage(lineage.path, codes_table, version)
    lineage.metadata.update(facts)
    metrics.log_metric("codes", facts["rows"])
    return str(version)


@component
def plan_ivf(codes_table: str, codes_version: str) -> NamedTuple("IvfPlan", [("job_id", str), ("Output", list[str])]):
    """Partitions of the codes, trained or kept, and ranges of their fragments.

    Args:
        codes_table: Lance table of codes.
        codes_version: Version with the codes of this run, which orders the steps; the newest is indexed.

    Returns:
        job_id: Id of the plan and the manifests in the store.
        Output: At most 64 shard ranges, each "job id:first shard:number of shards".
    """
    from eoforge.index.ivf.build import plan_ivf as plan
    from pipelines.ranges import shard_ranges

    ivf_plan = plan(codes_table)
    print(f"{ivf_plan.partitions} partitions, {ivf_plan.shards} shards, after version {codes_version}")
    return (ivf_plan.job_id, shard_ranges(ivf_plan.job_id, ivf_plan.shards))


@component
def ivf_range(bundle: str, codes: str, shard_range: str):
    """Index of a range of fragments; shards of an earlier attempt are skipped.

    Args:
        bundle: Run bundle of the codes.
        codes: Lance table of codes; "{bundle}" becomes the short id of the bundle.
        shard_range: "job id:first shard:number of shards".
    """
    from eoforge.index.ivf.build import index_shards
    from pipelines.lineage import codes_uri
    from pipelines.ranges import ShardRange

    part = ShardRange.parse(shard_range)
    if not part.count:
        print("every fragment is indexed")
        return
    print(index_shards(codes_uri(codes, bundle), part.job_id, part.first, part.count), "shards")


@component
def commit_ivf(codes_table: str, job_id: str, metrics: Output[Metrics], lineage: Output[Dataset]) -> str:
    """Commit of the index, and measurement of its recall; a repeated call changes nothing but the measurement.

    Args:
        codes_table: Lance table of codes.
        job_id: IVF job to commit.

    Returns:
        Output: Version of the table of codes.
        metrics: Recall by number of probed partitions.
        lineage: JSON with table of codes, version, rows and schema.
    """
    from eoforge.index.ivf.build import commit_ivf as commit
    from eoforge.storage.addresses import open_table
    from pipelines.lineage import write_table_lineage

    info = commit(codes_table, job_id)
    version = open_table(codes_table).version
    lineage.metadata.update(write_table_lineage(lineage.path, codes_table, version))
    metrics.log_metric("partitions", info.partitions)
    for probes, recall in info.recall.items():
        metrics.log_metric(f"recall_at_{probes}_partitions", recall)
    return str(version)
