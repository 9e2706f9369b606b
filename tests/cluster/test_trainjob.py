"""The pipelines' launcher against the controllers of Kubeflow Trainer and JobSet, with the chart's rights alone."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helm_python import Chart
from kfp.dsl import TaskConfig
from kubernetes import client, config

from eoforge.bundle import write_bundle
from eoforge.errors import EoforgeError
from eoforge.storage.addresses import TableRef
from pipelines.settings import RUNTIME_KIND
from pipelines.training import ClusterOptions, TrainingJob
from pipelines.trainjob import ClusterLauncher
from tests.charts import support
from tests.cluster import release
from tests.cluster.control_plane import LOG_LINES, ControlPlane
from tests.cluster.kubectl import Object
from tests.cluster.release import RELEASE, Home

ACCOUNT = "default-editor"
GPU: Object = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
RESERVED: Object = {"key": "lab.example/reserved", "operator": "Equal", "value": "eo", "effect": "NoSchedule"}


@pytest.fixture(scope="module")
def profile(cluster: ControlPlane) -> Iterator[Home]:
    """A namespace with the umbrella's Kubeflow part, and the service account that a profile has."""
    with release.home(cluster) as place:
        values = release.with_kubeflow_in(support.values_of("kubeflow-profile"), place.kubeflow)
        values["kubeflow"]["pipelines"] = {"delivery": "none"}
        values["kubeflow"]["trainingRuntime"] = {"tolerations": [RESERVED], "sharedMemory": "24Gi"}
        metadata = {"name": ACCOUNT, "namespace": place.kubeflow}
        cluster.kubectl.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
        with place.helm() as helm, Chart.load(support.UMBRELLA) as chart:
            helm.install(chart, RELEASE, values, namespace=place.name, wait="hookOnly", timeout=release.TIMEOUT_S)
        yield place


@pytest.fixture(autouse=True)
def runtime_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable that the chart's config map sets in a step."""
    monkeypatch.setenv(RUNTIME_KIND, "TrainingRuntime")


def launcher(place: Home, image: str, **options: Any) -> ClusterLauncher:
    """A launcher with the token of the profile's account: what the chart does not grant is refused."""
    kubectl = place.cluster.kubectl
    token = kubectl.run("create", "token", ACCOUNT, f"--namespace={place.kubeflow}")
    loaded = client.Configuration()
    config.load_kube_config(os.fspath(place.cluster.kubeconfig), client_configuration=loaded)
    loaded.cert_file = loaded.key_file = None  # the administrator's
    loaded.api_key = {"authorization": f"Bearer {token}"}
    task = TaskConfig(tolerations=[GPU], env=[{"name": "AWS_REGION", "value": "us-east-1"}])
    chosen = ClusterOptions(image=image, service_account=ACCOUNT, gpus=1, **options)
    return ClusterLauncher(chosen, task, client.ApiClient(loaded), place.kubeflow)


def job(folder: Path, name: str) -> TrainingJob:
    """A training run of its own name."""
    return TrainingJob("ss_cm_rsir", TableRef("s3://lake/patches.lance", 3), os.fspath(folder), "tiny", (), name)


def pods(place: Home, run: TrainingJob) -> list[Object]:
    """Its training pods."""
    label = f"--selector=jobset.sigs.k8s.io/jobset-name={run.name}"
    return place.cluster.kubectl.items("pods", label, f"--namespace={place.kubeflow}")


def meanwhile(what: Callable[[], None]) -> threading.Thread:
    """Does something while the launcher waits."""
    thread = threading.Thread(target=what)
    thread.start()
    return thread


def test_two_nodes_train_to_the_end(profile: Home, tmp_path: Path) -> None:
    run = job(tmp_path, "two-nodes")
    seen: list[Object] = []

    def trains() -> None:
        release.wait_until(lambda: len(pods(profile, run)) == 2, "two pods")
        seen.extend(pods(profile, run))
        write_bundle(run.out, weights={"w": torch.ones(2)}, config={"method": run.method}, metrics={}, readme="# card")

    thread = meanwhile(trains)
    bundle = launcher(profile, "test/trains", nodes=2, keep_job=True).train(run, timeout_s=120)
    thread.join()
    assert bundle.config["method"] == run.method
    assert len(seen) == 2
    for pod in seen:
        spec = pod["spec"]
        (container,) = spec["containers"]
        tolerated = [{k: t[k] for k in sorted(t)} for t in spec["tolerations"]]
        assert [t for t in tolerated if not t["key"].startswith("node.kubernetes.io/")] == [
            {k: t[k] for k in sorted(t)} for t in (RESERVED, GPU)
        ]
        (memory,) = (v["emptyDir"] for v in spec["volumes"] if v["name"] == "dshm")
        assert memory == {"medium": "Memory", "sizeLimit": "24Gi"}
        assert container["image"] == "test/trains"
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert {e["name"]: e.get("value") for e in container["env"]}["PET_NNODES"] == "2"
        assert spec["serviceAccountName"] == ACCOUNT
    kept = profile.cluster.kubectl.get(f"trainjob/{run.name}", f"--namespace={profile.kubeflow}")
    assert [c["type"] for c in kept["status"]["conditions"] if c["status"] == "True"] == ["Complete"]


def test_a_stopped_step_takes_its_job_and_pods_along(profile: Home, tmp_path: Path) -> None:
    run = job(tmp_path, "stopped")

    def stops() -> None:
        release.wait_until(lambda: len(pods(profile, run)) == 2, "two pods")
        os.kill(os.getpid(), signal.SIGTERM)

    thread = meanwhile(stops)
    with pytest.raises(SystemExit, match="a new run resumes it"):
        launcher(profile, "test/stays", nodes=2).train(run, timeout_s=120)
    thread.join()
    kind = f"trainjobs.trainer.kubeflow.org/{run.name}"
    assert profile.cluster.kubectl.try_run("get", kind, f"--namespace={profile.kubeflow}")[0] == 1
    release.wait_until(lambda: pods(profile, run) == [], "no pods")


def test_a_failed_job_says_why_and_is_kept(profile: Home, tmp_path: Path) -> None:
    run = job(tmp_path, "failed")
    with pytest.raises(EoforgeError, match=LOG_LINES[-1]):
        launcher(profile, "test/fails").train(run, timeout_s=120)
    kind = f"trainjobs.trainer.kubeflow.org/{run.name}"
    assert profile.cluster.kubectl.try_run("get", kind, f"--namespace={profile.kubeflow}")[0] == 0
