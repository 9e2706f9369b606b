"""Pipeline patches table -> run bundle, for any method and preset."""

# mypy: disable-error-code="valid-type,call-arg,empty-body,return-value"
# kfp reads named outputs from a NamedTuple call in the annotation, which mypy takes for an invalid type.

from typing import NamedTuple

from kfp import dsl, kubernetes
from kfp.dsl import HTML, Markdown

from pipelines.components.train import train as train_step
from pipelines.definitions.placement import place
from pipelines.settings import GPU_RESOURCE, GPUS_PER_NODE, IMAGE, NAMESPACE, SERVICE_ACCOUNT, TRAINING_RUNTIME


@dsl.pipeline(
    name="eoforge-train", display_name="Train a method", description="Train a method on a version of a patches table."
)
def train(
    table: str,
    runs: str,
    version: str = "",
    method: str = "ss_cm_rsir",
    preset: str = "paper",
    overrides: list[str] = [],  # noqa: B006  # kfp copies the default into the compiled pipeline
    nodes: int = 1,
    runtime: str = TRAINING_RUNTIME,
    service_account: str = SERVICE_ACCOUNT,
    timeout_hours: int = 72,
    keep_job: bool = False,
    image: str = IMAGE,
) -> NamedTuple("Trained", [("bundle", str), ("bundle_id", str), ("curves", HTML), ("card", Markdown)]):
    """Pipeline of the training of a method; an interrupted run resumes at its last checkpoint.

    Args:
        table: Lance table of patches, for example s3://lake/patches.lance.
        runs: Folder of run bundles and checkpoints, for example s3://lake/runs.
        version: Version of the table to train on; empty for the newest.
        method: Name of the method.
        preset: tiny (minutes on a CPU) or paper (the published configuration).
        overrides: Configuration overrides, each "key=value".
        nodes: Number of training nodes; each has one GPU.
        runtime: ClusterTrainingRuntime of Kubeflow Trainer that the TrainJob refers to.
        service_account: Service account of the training pods.
        timeout_hours: Time limit of training in hours.
        keep_job: Keep the finished TrainJob; a failed one is always kept.
        image: Image of the training pods, for example REGISTRY/eoforge/pipelines-python@sha256:...

    Returns:
        bundle: URI of the run bundle.
        bundle_id: sha256 of its manifest.
        curves: Training curves.
        card: Model card.
    """
    from collections import namedtuple

    task = place(
        train_step(
            table=table,
            version=version,
            runs=runs,
            method=method,
            preset=preset,
            overrides=overrides,
            nodes=nodes,
            image=image,
            runtime=runtime,
            service_account=service_account,
            timeout_hours=timeout_hours,
            keep_job=keep_job,
            gpus=GPUS_PER_NODE,
            cpu="8",
            memory="32Gi",
        ),
        cpu="1",
        memory="2Gi",
        hours=24 * 7,
        retries=2,
    )
    kubernetes.add_toleration(task, key=GPU_RESOURCE, operator="Exists", effect="NoSchedule")
    # The step creates its TrainJob here, and stops it when the run is terminated.
    kubernetes.use_field_path_as_env(task, env_name=NAMESPACE, field_path="metadata.namespace")
    return namedtuple("Trained", ["bundle", "bundle_id", "curves", "card"])(
        task.outputs["bundle"], task.outputs["bundle_id"], task.outputs["curves"], task.outputs["card"]
    )
