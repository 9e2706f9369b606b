"""Step of training: starts a training job, waits for its end, and reports the result."""

# mypy: disable-error-code="valid-type,call-arg,empty-body,return-value"
# kfp reads named outputs from a NamedTuple call in the annotation, which mypy takes for an invalid type.

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import HTML, Markdown, Metrics, Model, Output

from pipelines.components._component import component


@component(
    task_config_passthroughs=[
        # The step's own resources: a quota refuses a pod without. Those of the training pods are inputs.
        dsl.TaskConfigPassthrough(field=dsl.TaskConfigField.RESOURCES, apply_to_task=True),
        dsl.TaskConfigField.KUBERNETES_TOLERATIONS,
        dsl.TaskConfigField.KUBERNETES_NODE_SELECTOR,
        dsl.TaskConfigField.KUBERNETES_AFFINITY,
        dsl.TaskConfigPassthrough(field=dsl.TaskConfigField.ENV, apply_to_task=True),
        dsl.TaskConfigPassthrough(field=dsl.TaskConfigField.KUBERNETES_VOLUMES, apply_to_task=True),
    ]
)
def train(
    table: str,
    version: str,
    runs: str,
    method: str,
    preset: str,
    overrides: list[str],
    nodes: int,
    image: str,
    runtime: str,
    service_account: str,
    timeout_hours: int,
    keep_job: bool,
    gpus: int,
    cpu: str,
    memory: str,
    curves: Output[HTML],
    card: Output[Markdown],
    metrics: Output[Metrics],
    lineage: Output[Model],
    task_config: dsl.TaskConfig,
) -> NamedTuple("Trained", [("bundle", str), ("bundle_id", str)]):
    """Training of a method: a TrainJob on a cluster, a subprocess with the same command elsewhere.

    Args:
        table: Lance table of patches.
        version: Version to train on; empty for the newest.
        runs: Folder of run bundles and checkpoints, a path or s3:// URI.
        method: Name of the method, for example ss_cm_rsir.
        preset: tiny or paper.
        overrides: Configuration overrides, each "key=value".
        nodes: Number of training nodes (cluster only).
        image: Image of the training pods; by digest, it never changes.
        runtime: ClusterTrainingRuntime that the TrainJob refers to.
        service_account: Service account of the training pods.
        timeout_hours: Time limit of training in hours.
        keep_job: Keep the finished TrainJob; a failed one is always kept.
        gpus: GPUs of each training pod.
        cpu: CPU limit of each training pod.
        memory: Memory limit and request of each training pod.
        task_config: Tolerations, node selector and environment of this task, which the training pods get.

    Returns:
        bundle: URI of the run bundle.
        bundle_id: sha256 of its manifest.
        curves: Training curves, one self-contained page.
        card: Model card.
        metrics: Last metrics of the training.
        lineage: JSON with the bundle, its seed, the version of its training table, and the image.
    """
    from pathlib import Path

    from eoforge.bundle import scalar_metrics
    from pipelines.launcher import launcher_for
    from pipelines.lineage import write_bundle_lineage
    from pipelines.reports.curves import curves_html
    from pipelines.training import ClusterOptions, TrainingJob

    job = TrainingJob.plan(
        method=method, table=table, version=version, runs=runs, preset=preset, overrides=tuple(overrides)
    )
    options = ClusterOptions(
        image=image, runtime=runtime, service_account=service_account, nodes=int(nodes), keep_job=keep_job,
        gpus=int(gpus), cpu=cpu, memory=memory,
    )  # fmt: skip
    bundle = launcher_for(task_config, options).train(job, timeout_s=int(timeout_hours) * 3600)
    Path(curves.path).write_text(curves_html(bundle))
    Path(card.path).write_text(bundle.read("README.md").decode())
    for name, value in scalar_metrics(bundle.metrics).items():
        metrics.log_metric(name, value)
    lineage.metadata.update(write_bundle_lineage(lineage.path, bundle))
    return (bundle.uri, bundle.id)
