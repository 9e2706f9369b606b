"""What the chart's training runtime says reaches the jobs that a pipeline starts, merged as the API server merges."""

from __future__ import annotations

from typing import Any

import pytest
from kfp.dsl import TaskConfig

from eoforge.storage.addresses import TableRef
from pipelines.launcher import ClusterOptions, TrainingJob
from pipelines.trainjob_object import train_job
from tests.charts import support
from tests.charts.strategic import merge_pod

GPU: dict[str, Any] = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
RESERVED: dict[str, Any] = {"key": "lab.example/reserved", "operator": "Equal", "value": "eo", "effect": "NoSchedule"}


def pod_of_a_job(runtime_values: dict[str, Any], task: TaskConfig) -> dict[str, Any]:
    """Pod fields of a training job, from the chart's runtime and the step's patch."""
    values = support.values_of("minio")
    values["kubeflow"] = {"trainingRuntime": runtime_values}
    runtime = support.pick(support.objects(support.render(support.UMBRELLA, values)), "TrainingRuntime")
    run = TrainingJob("ss_cm_rsir", TableRef("s3://lake/patches.lance", 1), "s3://lake/runs", "tiny", (), "r")
    job = train_job(run, ClusterOptions(gpus=1), task, "kubeflow", 3600, runtime)
    (patch,) = job["spec"]["runtimePatches"]
    (theirs,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    (ours,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert ours["name"] == theirs["name"]
    pods = [found["template"]["spec"]["template"]["spec"] for found in (theirs, ours)]
    return merge_pod(*pods)


def test_tolerations_of_runtime_and_step_add_up() -> None:
    pod = pod_of_a_job({"tolerations": [RESERVED, GPU]}, TaskConfig(tolerations=[GPU]))
    assert pod["tolerations"] == [RESERVED, GPU]
    assert pod_of_a_job({"tolerations": [RESERVED]}, TaskConfig())["tolerations"] == [RESERVED]
    assert pod_of_a_job({}, TaskConfig(tolerations=[GPU]))["tolerations"] == [GPU]


def test_shared_memory_is_as_large_as_the_values_say() -> None:
    pod = pod_of_a_job({"sharedMemory": "24Gi"}, TaskConfig())
    (volume,) = (v for v in pod["volumes"] if v["name"] == "dshm")
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "24Gi"}
    paths = [m["mountPath"] for m in pod["containers"][0]["volumeMounts"]]
    assert len(paths) == len(set(paths))
    assert {"/dev/shm", "/tmp", "/etc/eoforge/s3-ca"} <= set(paths)


@pytest.mark.parametrize("selector", [{}, {"pool": "small"}])
def test_node_selector_of_the_runtime_wins(selector: dict[str, str]) -> None:
    pod = pod_of_a_job({"nodeSelector": selector}, TaskConfig(node_selector={"pool": "gpu", "zone": "a"}))
    assert pod["nodeSelector"] == {"pool": "gpu", "zone": "a"} | selector


def test_the_pod_stays_restricted_and_runs_as_the_steps_do() -> None:
    pod = pod_of_a_job({}, TaskConfig())
    assert pod["securityContext"]["runAsNonRoot"]
    (container,) = pod["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["readOnlyRootFilesystem"], "what the runtime says is kept"
    assert pod["serviceAccountName"] == "pipeline-runner"
