"""Pipeline archive -> table -> bundle -> evaluation and codes: all inputs of the retrieval service in one run."""

# mypy: disable-error-code="valid-type,call-arg,empty-body,return-value"
# kfp reads named outputs from a NamedTuple call in the annotation, which mypy takes for an invalid type.

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import HTML

from pipelines.definitions.evaluate import evaluate
from pipelines.definitions.index import index
from pipelines.definitions.ingest import ingest
from pipelines.definitions.train import train
from pipelines.settings import IMAGE, SERVICE_ACCOUNT, TRAINING_RUNTIME


@dsl.pipeline(
    name="eoforge-archive-to-service",
    display_name="Archive to service",
    description="Ingest, train, evaluate and index in one run.",
)
def archive_to_service(
    archive: str,
    table: str,
    runs: str,
    codes: str,
    method: str = "ss_cm_rsir",
    preset: str = "paper",
    overrides: list[str] = [],  # noqa: B006  # kfp copies the default into the compiled pipeline
    strict: bool = False,
    shard_rows: int = 1024,
    k: int = 10,
    nodes: int = 1,
    runtime: str = TRAINING_RUNTIME,
    service_account: str = SERVICE_ACCOUNT,
    timeout_hours: int = 72,
    image: str = IMAGE,
) -> NamedTuple(
    "Served",
    [
        ("version", str),
        ("summary", str),
        ("bundle", str),
        ("codes_table", str),
        ("codes_version", str),
        ("quality", HTML),
        ("curves", HTML),
        ("retrieval", HTML),
    ],
):
    """Pipeline from an archive to codes for the retrieval service.

    Args:
        archive: Directory or s3:// prefix in the official reBEN layout, folder of .tar files, or rico-hdl LMDB.
        table: Lance table of patches to create or grow, for example s3://lake/patches.lance.
        runs: Folder of run bundles and checkpoints, for example s3://lake/runs.
        codes: Lance table for the codes, for example s3://lake/codes-{bundle}.lance; "{bundle}" becomes the short
            id of the bundle, so that each bundle has its own table.
        method: Name of the method.
        preset: tiny (minutes on a CPU) or paper (the published configuration).
        overrides: Configuration overrides, each "key=value".
        strict: Refuse the whole archive, and write nothing, if one patch is bad.
        shard_rows: Limit of patches per shard and minimum per pod, of ingestion and indexing.
        k: Cut-off of the metrics.
        nodes: Number of training nodes; each has one GPU.
        runtime: ClusterTrainingRuntime of Kubeflow Trainer that the TrainJob refers to.
        service_account: Service account of the training pods.
        timeout_hours: Time limit of training in hours.
        image: Image of the training pods, for example REGISTRY/eoforge/pipelines-python@sha256:...

    Returns:
        version: Version of the patches table for all following outputs.
        summary: Counts of the ingestion as JSON.
        bundle: URI of the run bundle.
        codes_table: Table of codes to serve.
        codes_version: Version of the table of codes.
        quality: Quality report of the ingestion.
        curves: Training curves.
        retrieval: Retrieval report.
    """
    from collections import namedtuple

    ingested = ingest(archive=archive, table=table, shard_rows=shard_rows, strict=strict)
    version = ingested.outputs["version"]
    trained = train(
        table=table,
        version=version,
        runs=runs,
        method=method,
        preset=preset,
        overrides=overrides,
        nodes=nodes,
        runtime=runtime,
        service_account=service_account,
        timeout_hours=timeout_hours,
        image=image,
    )
    bundle = trained.outputs["bundle"]
    indexed = index(bundle=bundle, table=table, version=version, codes=codes, shard_rows=shard_rows)
    evaluated = evaluate(bundle=bundle, table=table, version=version, k=k)
    for part in (ingested, trained, indexed, evaluated):
        part.set_caching_options(False)
    names = ["version", "summary", "bundle", "codes_table", "codes_version", "quality", "curves", "retrieval"]
    return namedtuple("Served", names)(
        version,
        ingested.outputs["summary"],
        bundle,
        indexed.outputs["codes_table"],
        indexed.outputs["codes_version"],
        ingested.outputs["quality"],
        trained.outputs["curves"],
        evaluated.outputs["report"],
    )
