"""The TrainJob object of a training run: what the run says, added to what the training runtime says."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pipelines.settings import CA_CONFIG_MAP, CA_FOLDER, RUNTIME_KIND, USER_ID
from pipelines.training import ClusterOptions, TrainingJob

if TYPE_CHECKING:
    from kfp.dsl import TaskConfig

GROUP, VERSION = "trainer.kubeflow.org", "v1alpha1"
MANAGER = "eoforge.io/pipelines"
CONTAINER = "node"
"""Name of the training container, and of its replicated job, in the runtimes that Kubeflow Trainer ships."""


def runtime_kind() -> str:
    """Kind of the training runtime: one of the namespace where the chart brings it, else one of the cluster."""
    return os.environ.get(RUNTIME_KIND, "ClusterTrainingRuntime")


def train_job(
    job: TrainingJob,
    options: ClusterOptions,
    task: TaskConfig,
    namespace: str,
    timeout_s: int,
    runtime: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The TrainJob object.

    Args:
        job: What to train.
        options: Image, runtime, service account, number of nodes, resources.
        task: Settings that Kubeflow put on the step.
        namespace: Where to create it.
        timeout_s: The cluster itself stops the job after so long, even if nobody waits for it any more.
        runtime: The training runtime; None where it could not be read, and then nothing of it is kept knowingly.
    """
    trainer = {
        "image": options.image,
        "command": ["python", "-m", "torch.distributed.run", "--module", "eoforge.cli"],
        "args": job.arguments(),
        "numNodes": options.nodes,
        "numProcPerNode": max(options.gpus, 1),
        "resourcesPerNode": options.resources,
        "env": task.env,
    }
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {
            "name": job.name,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "eoforge-pipelines", "eoforge.io/method": job.method},
        },
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": runtime_kind(), "name": options.runtime},
            "trainer": _present(trainer),
            "activeDeadlineSeconds": timeout_s,
            "runtimePatches": [{"manager": MANAGER, "trainingRuntimeSpec": _runtime_patch(options, task, runtime)}],
        },
    }


def _runtime_patch(options: ClusterOptions, task: TaskConfig, runtime: dict[str, Any] | None) -> dict[str, Any]:
    """What the job adds to its runtime: where both say something, the runtime's word counts.

    Trainer merges strategically: a list of tolerations would replace the runtime's, a volume of the same name would
    change it.
    """
    known = _training_pod(runtime or {})
    container: dict[str, Any] = next((c for c in known.get("containers", []) if c["name"] == CONTAINER), {})
    volumes: dict[str, tuple[str, dict[str, Any]]] = {
        "scratch": ("/tmp", {"emptyDir": {}}),  # noqa: S108  # in the pod
        # Data loader workers hand batches over in shared memory; the default of 64 MiB holds two of them.
        "dshm": ("/dev/shm", {"emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}),  # noqa: S108
        "s3-ca": (CA_FOLDER, {"configMap": {"name": CA_CONFIG_MAP, "optional": True}}),
    }
    taken = {v["name"] for v in known.get("volumes", [])} | {m["mountPath"] for m in container.get("volumeMounts", [])}
    ours = {name: found for name, found in volumes.items() if not taken & {name, found[0]}}
    tolerations = [*known.get("tolerations", []), *(task.tolerations or [])]
    secure = {
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "runAsGroup": USER_ID,
        "fsGroup": USER_ID,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    hardened = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    mounts = [{"name": name, "mountPath": path} for name, (path, _) in ours.items()]
    node = {"volumeMounts": mounts, "securityContext": _absent(hardened, container.get("securityContext"))}
    pod = {
        "serviceAccountName": options.service_account,
        "securityContext": _absent(secure, known.get("securityContext")),
        "tolerations": [t for i, t in enumerate(tolerations) if t not in tolerations[:i]],
        "nodeSelector": _absent(task.node_selector or {}, known.get("nodeSelector")),
        "affinity": None if known.get("affinity") else task.affinity,
        "containers": [{"name": CONTAINER, **_present(node)}],
        "volumes": [{"name": name, **source} for name, (_, source) in ours.items()],
    }
    template = {"spec": {"template": {"spec": _present(pod)}}}
    return {"template": {"spec": {"replicatedJobs": [{"name": CONTAINER, "template": template}]}}}


def _training_pod(runtime: dict[str, Any]) -> dict[str, Any]:
    """Pod fields of a runtime's training job; empty where it has none of that name."""
    jobs = runtime.get("spec", {}).get("template", {}).get("spec", {}).get("replicatedJobs", [])
    found = (job["template"]["spec"]["template"].get("spec", {}) for job in jobs if job["name"] == CONTAINER)
    return dict(next(found, {}))


def _absent(ours: dict[str, Any], theirs: dict[str, Any] | None) -> dict[str, Any]:
    """Those of our settings that the runtime leaves open."""
    return {key: value for key, value in ours.items() if key not in (theirs or {})}


def _present(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value}
