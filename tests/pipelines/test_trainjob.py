"""Training on a cluster: valid TrainJobs, created once, watched to their end, cleaned up, against a real HTTP API."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from kfp.dsl import TaskConfig
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob
from kubernetes import client

from eoforge.bundle import write_bundle
from eoforge.errors import ConflictError, DataRefused, EoforgeError, NotFound
from eoforge.storage.addresses import TableRef
from pipelines.launcher import LocalLauncher, launcher_for
from pipelines.training import ClusterOptions, TrainingJob
from pipelines.trainjob import ClusterLauncher
from pipelines.trainjob_object import train_job
from tests.pipelines.fake_kubernetes import Cluster, fake_kubernetes

TASK = TaskConfig(
    resources={"limits": {"cpu": "1", "memory": "2Gi"}, "requests": {"cpu": "500m", "memory": "2Gi"}},
    tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    node_selector={"pool": "gpu"},
    env=[
        {
            "name": "AWS_ACCESS_KEY_ID",
            "valueFrom": {"secretKeyRef": {"name": "eoforge-s3", "key": "AWS_ACCESS_KEY_ID"}},
        }
    ],
)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with fake_kubernetes() as running:
        yield running


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    return TrainingJob(
        "ss_cm_rsir", TableRef("s3://lake/patches.lance", 3), str(tmp_path), "tiny", ("epochs=2",), "abc"
    )


def launcher(cluster: Cluster, **options: object) -> ClusterLauncher:
    configuration = client.Configuration(host=cluster.url)
    return ClusterLauncher(ClusterOptions(**options), TASK, client.ApiClient(configuration), "lab")


def write(job: TrainingJob, value: float = 1.0) -> str:
    bundle = write_bundle(
        job.out, weights={"w": torch.full((2,), value)}, config={"method": job.method}, metrics={}, readme="# card"
    )
    return bundle.uri


def completes(job: TrainingJob) -> object:
    def run(cluster: Cluster, name: str) -> None:
        cluster.watched.wait(60)
        write(job)
        cluster.finish(name)

    return run


def test_object_is_valid_for_the_trainer_models(job: TrainingJob) -> None:
    for task, gpus in ((TASK, 1), (TaskConfig(), 0)):
        made = train_job(job, ClusterOptions(nodes=3, gpus=gpus), task, "lab", 3600)
        # from_dict drops what it does not know, so equality is what finds a misspelt field.
        assert TrainerV1alpha1TrainJob.from_dict(made).to_dict() == made
    broken = train_job(job, ClusterOptions(), TASK, "lab", 3600)
    broken["spec"]["podSpecOverrides"] = [{"targetJobs": [{"name": "node"}]}]
    assert TrainerV1alpha1TrainJob.from_dict(broken).to_dict() != broken


def test_object_carries_nodes_gpus_command_and_task_settings(job: TrainingJob) -> None:
    spec = train_job(job, ClusterOptions(image="lab/python:1", nodes=3, gpus=4), TASK, "lab", 3600)["spec"]
    trainer = spec["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"], trainer["image"]) == (3, 4, "lab/python:1")
    assert trainer["command"][1:] == ["-m", "torch.distributed.run", "--module", "eoforge.cli"]
    assert trainer["args"] == job.arguments()
    assert trainer["env"] == TASK.env
    limits = {"cpu": "8", "memory": "32Gi"}
    requests = {"cpu": "4000m", "memory": "32Gi"}
    assert trainer["resourcesPerNode"] == {"requests": requests, "limits": {**limits, "nvidia.com/gpu": "4"}}
    replicated = spec["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]
    pod = replicated["template"]["spec"]["template"]["spec"]
    assert pod["tolerations"] == TASK.tolerations
    assert pod["nodeSelector"] == TASK.node_selector
    assert pod["securityContext"]["runAsNonRoot"]
    assert spec["activeDeadlineSeconds"] == 3600


def test_same_job_same_name_other_job_other_name(job: TrainingJob, tmp_path: Path) -> None:
    again = TrainingJob(job.method, job.table, job.runs, job.preset, job.overrides, job.revision)
    other = TrainingJob(job.method, job.table, job.runs, job.preset, ("epochs=3",), job.revision)
    assert again.name == job.name != other.name
    assert len(job.name) <= 40
    assert job.name == job.name.lower().replace("_", "-")


def test_created_watched_to_the_end_and_removed(cluster: Cluster, job: TrainingJob) -> None:
    cluster.on_create = completes(job)
    bundle = launcher(cluster).train(job, timeout_s=120)
    assert bundle.config["method"] == "ss_cm_rsir"
    assert cluster.created == [job.name] == cluster.deleted
    assert cluster.watches >= 1


def test_finished_job_is_kept_on_request(cluster: Cluster, job: TrainingJob) -> None:
    cluster.on_create = completes(job)
    launcher(cluster, keep_job=True).train(job, timeout_s=120)
    assert cluster.deleted == []


def test_failure_carries_the_trainers_own_message(cluster: Cluster, job: TrainingJob) -> None:
    cluster.log = (
        'epoch 1\n{"error": {"reason": "DATA_REFUSED", "message": "the table has no validation split", "exit_code": 3}}'
    )
    cluster.on_create = lambda c, name: c.finish(name, "Failed", "worker exited")
    with pytest.raises(DataRefused, match="no validation split"):
        launcher(cluster).train(job, timeout_s=120)
    assert cluster.deleted == [], "a failed job is kept, so that people can look at it"


def test_failure_without_a_message_shows_the_condition_and_the_log(cluster: Cluster, job: TrainingJob) -> None:
    cluster.log = "CUDA out of memory"
    cluster.on_create = lambda c, name: c.finish(name, "Failed", "backoff limit reached")
    with pytest.raises(EoforgeError, match=r"(?s)JobsFailed: backoff limit reached.*CUDA out of memory"):
        launcher(cluster).train(job, timeout_s=120)


def test_repeated_step_adopts_the_running_job(cluster: Cluster, job: TrainingJob) -> None:
    body = train_job(job, ClusterOptions(), TASK, "lab", 30)
    cluster.put(job.name, body, "ADDED")
    threading.Thread(target=completes(job), args=(cluster, job.name)).start()
    launcher(cluster).train(job, timeout_s=120)
    assert cluster.created == []


def test_job_that_failed_earlier_is_replaced(cluster: Cluster, job: TrainingJob) -> None:
    cluster.put(job.name, train_job(job, ClusterOptions(), TASK, "lab", 30), "ADDED")
    cluster.finish(job.name, "Failed")
    cluster.on_create = completes(job)
    launcher(cluster).train(job, timeout_s=120)
    assert cluster.created == [job.name]
    assert cluster.deleted == [job.name, job.name]


def test_hiccups_of_the_api_server_are_ridden_out(cluster: Cluster, job: TrainingJob) -> None:
    cluster.failures = [503, 500]
    cluster.on_create = completes(job)
    assert launcher(cluster).train(job, timeout_s=120).config["method"] == job.method


def test_refused_creation_says_what_to_check(cluster: Cluster, job: TrainingJob) -> None:
    cluster.failures = [None, 403]
    with pytest.raises(EoforgeError, match="may this service account create trainjobs"):
        launcher(cluster).train(job, timeout_s=120)


def test_missing_runtime_is_named_before_anything_is_created(cluster: Cluster, job: TrainingJob) -> None:
    cluster.runtime = None
    with pytest.raises(NotFound, match="no ClusterTrainingRuntime torch-distributed"):
        launcher(cluster).train(job, timeout_s=120)
    assert cluster.created == []


def test_runtime_that_may_not_be_read_is_said(
    cluster: Cluster, job: TrainingJob, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.failures = [403]
    cluster.on_create = completes(job)
    launcher(cluster).train(job, timeout_s=120)
    assert "may not be read" in capsys.readouterr().out


def test_what_the_runtime_tolerates_reaches_the_job(cluster: Cluster, job: TrainingJob) -> None:
    taint = {"key": "lab/reserved", "operator": "Exists"}
    pod = {"tolerations": [taint], "containers": [{"name": "node"}]}
    jobs = [{"name": "node", "template": {"spec": {"template": {"spec": pod}}}}]
    cluster.runtime = {"spec": {"template": {"spec": {"replicatedJobs": jobs}}}}
    cluster.on_create = completes(job)
    launcher(cluster, keep_job=True).train(job, timeout_s=120)
    (patch,) = cluster.jobs[job.name]["spec"]["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert replicated["template"]["spec"]["template"]["spec"]["tolerations"] == [taint, *TASK.tolerations]


def test_timeout_stops_the_job_and_says_how_to_go_on(cluster: Cluster, job: TrainingJob) -> None:
    with pytest.raises(EoforgeError, match="longer than 1 s"):
        launcher(cluster).train(job, timeout_s=1)
    assert cluster.deleted == [job.name]


def test_terminated_step_takes_its_job_along(cluster: Cluster, job: TrainingJob) -> None:
    cluster.on_create = lambda c, _name: (c.watched.wait(60), os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit, match="a new run resumes it"):
        launcher(cluster).train(job, timeout_s=120)
    assert cluster.deleted == [job.name]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_complete_without_a_bundle_is_an_error(cluster: Cluster, job: TrainingJob) -> None:
    cluster.on_create = lambda c, name: c.finish(name)
    with pytest.raises(ConflictError, match="there are 0"):
        launcher(cluster).train(job, timeout_s=120)


def test_new_bundle_wins_over_those_of_earlier_runs(cluster: Cluster, job: TrainingJob) -> None:
    write(job, 7.0)
    cluster.on_create = completes(job)
    assert launcher(cluster).train(job, timeout_s=120).weights()["w"].tolist() == [1.0, 1.0]


def test_the_bundle_of_an_earlier_stage_is_not_that_of_the_run(cluster: Cluster, job: TrainingJob) -> None:
    """RS-JCIF leaves the bundle of its codec below the folder of the run."""

    def run(cluster: Cluster, name: str) -> None:
        cluster.watched.wait(60)
        stage = {"method": "rs_jcif", "config": {}}
        write_bundle(f"{job.out}/compression", weights={"w": torch.zeros(1)}, config=stage, metrics={}, readme="# 1")
        write(job)
        cluster.finish(name)

    cluster.on_create = run
    assert launcher(cluster).train(job, timeout_s=120).config["method"] == "ss_cm_rsir"


def test_empty_task_config_means_this_machine() -> None:
    assert isinstance(launcher_for(TaskConfig(), ClusterOptions()), LocalLauncher)
