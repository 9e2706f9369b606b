"""Every object of every scenario against strict schemas, on three versions of Kubernetes; and the schemas do refuse."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from pipelines.settings import CA_CONFIG_MAP, CA_FOLDER, CONFIG_KEYS, CONFIG_MAP
from pipelines.training import ClusterOptions, TrainingJob
from tests.charts import schemas, support

KINDS = {
    "Certificate", "ConfigMap", "Deployment", "GRPCRoute", "HTTPRoute", "HorizontalPodAutoscaler", "Ingress",
    "InferenceService", "Job", "NetworkPolicy", "Pipeline", "PipelineVersion", "Pod", "PodDisruptionBudget",
    "PrometheusRule", "Role", "RoleBinding", "ScaledObject", "Secret", "Service", "ServiceAccount", "ServiceMonitor",
    "StatefulSet", "TLSRoute", "TrainingRuntime",
}  # fmt: skip


@pytest.mark.parametrize("name", support.SCENARIOS)
@pytest.mark.parametrize("version", schemas.KUBERNETES)
def test_every_object_is_valid(name: str, version: str) -> None:
    found = support.scenario(name)
    wrong = {support.label(o): problems for o in found if (problems := schemas.problems(o, version))}
    assert found
    assert wrong == {}


def test_the_scenarios_reach_every_kind_that_the_charts_can_make() -> None:
    assert {o["kind"] for name in support.SCENARIOS for o in support.scenario(name)} == KINDS


def _pod_spec(o: Any) -> Any:
    return o["spec"]["template"]["spec"]


def _misspell(o: Any) -> None:
    _pod_spec(o)["containers"][0]["imagePullPolice"] = "Always"


def _wrong_type(o: Any) -> None:
    _pod_spec(o)["containers"][0]["ports"][0]["containerPort"] = "8081"


def _strategy(o: Any) -> None:
    o["spec"]["predictor"]["deploymentStrategy"]["typ"] = "Recreate"


def _runtime_port(o: Any) -> None:
    o["spec"]["predictor"]["containers"][0]["ports"][0]["containerPort"] = "grpc"


def _predictor(o: Any) -> None:
    o["spec"]["predictor"]["minReplica"] = 1


def _probe(o: Any) -> None:
    o["spec"]["predictor"]["containers"][0]["readinessProbe"]["grpc"]["service_name"] = "x"


def _training(o: Any) -> None:
    o["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["templates"] = {"a": 1}


def _ml_policy(o: Any) -> None:
    o["spec"]["mlPolicy"]["numNodes"] = "two"


def _trigger(o: Any) -> None:
    o["spec"]["triggers"][0]["metadata"]["threshold"] = 8


def _route(o: Any) -> None:
    o["spec"]["rules"][0]["backendRefs"][0]["portNumber"] = 1


def _endpoint(o: Any) -> None:
    o["spec"]["endpoints"][0]["intervall"] = "30s"


def _issuer(o: Any) -> None:
    del o["spec"]["issuerRef"]["name"]


def _lifetime(o: Any) -> None:
    o["spec"]["privateKey"]["rotationPolicy"] = "Sometimes"


def _scheme(o: Any) -> None:
    o["spec"]["endpoints"][0]["scheme"] = "gopher"


def _duration(o: Any) -> None:
    o["spec"]["groups"][0]["rules"][0]["for"] = "five minutes"


def _alert(o: Any) -> None:
    del o["spec"]["groups"][0]["rules"][0]["expr"]


@pytest.mark.parametrize(
    ("name", "kind", "harm"),
    [
        ("plain", "Deployment", _misspell),
        ("plain", "Deployment", _wrong_type),
        ("minio", "InferenceService", _strategy),
        ("minio", "InferenceService", _predictor),
        ("minio", "InferenceService", _runtime_port),
        ("minio", "InferenceService", _probe),
        ("minio", "TrainingRuntime", _training),
        ("minio", "TrainingRuntime", _ml_policy),
        ("gpu-aws", "ScaledObject", _trigger),
        ("minio", "GRPCRoute", _route),
        ("minio", "HTTPRoute", _route),
        ("plain", "TLSRoute", _route),
        ("minio", "ServiceMonitor", _endpoint),
        ("minio", "ServiceMonitor", _scheme),
        ("minio", "PrometheusRule", _alert),
        ("minio", "PrometheusRule", _duration),
        ("plain", "Certificate", _issuer),
        ("plain", "Certificate", _lifetime),
    ],
)
def test_the_schemas_refuse_what_a_cluster_would_refuse(name: str, kind: str, harm: Any) -> None:
    found = copy.deepcopy(next(o for o in support.scenario(name) if o["kind"] == kind))
    assert schemas.problems(found, "1.36") == []
    harm(found)
    assert schemas.problems(found, "1.36") != []


def test_the_train_job_of_the_pipelines_fits_the_trainer_and_names_our_runtime(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The step's TrainJob and the chart's runtime meet: kind, name, and the container that is patched."""
    from kfp.dsl import TaskConfig

    from eoforge.storage.addresses import TableRef
    from pipelines import trainjob_object as trainjob

    found = support.scenario("minio")
    (key,) = {k for k in CONFIG_KEYS if k.endswith("RUNTIME_KIND")}
    monkeypatch.setenv(key, support.pick(found, "ConfigMap", CONFIG_MAP)["data"][CONFIG_KEYS[key]])
    job = TrainingJob("ss_cm_rsir", TableRef("s3://lake/patches.lance", 1), "s3://lake/runs", "tiny", (), "r")
    task = TaskConfig(resources={"limits": {"nvidia.com/gpu": "1"}})
    made = trainjob.train_job(job, ClusterOptions(), task, "kubeflow", 3600)
    assert schemas.problems(made, "1.36") == []
    runtime = support.pick(found, "TrainingRuntime")
    reference = made["spec"]["runtimeRef"]
    assert (reference["kind"], reference["name"]) == (runtime["kind"], runtime["metadata"]["name"])
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert replicated["name"] == trainjob.CONTAINER
    (container,) = replicated["template"]["spec"]["template"]["spec"]["containers"]
    assert container["name"] == trainjob.CONTAINER


def test_steps_and_training_trust_the_ca_of_the_store() -> None:
    """Where the variable points to is where steps (test_compiled.py) and training pods mount the config map."""
    from kfp.dsl import TaskConfig

    from eoforge.storage.addresses import TableRef
    from pipelines import trainjob_object as trainjob

    values = support.values_of("minio")
    values["global"]["s3"]["caBundle"] = {"configMap": CA_CONFIG_MAP, "key": "root.pem"}
    found = support.objects(support.render(support.UMBRELLA, values))
    named = support.pick(found, "ConfigMap", CONFIG_MAP)["data"]["SSL_CERT_FILE"]
    assert named == f"{CA_FOLDER}/root.pem"
    job = trainjob.train_job(
        TrainingJob("ss_cm_rsir", TableRef("s3://lake/patches.lance", 1), "s3://lake/runs", "tiny", (), "r"),
        ClusterOptions(), TaskConfig(), "kubeflow", 3600,
    )  # fmt: skip
    (patch,) = job["spec"]["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = replicated["template"]["spec"]["template"]["spec"]
    mounted = {m["name"]: m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
    (volume,) = (v for v in pod["volumes"] if mounted[v["name"]] == CA_FOLDER)
    assert volume["configMap"] == {"name": CA_CONFIG_MAP, "optional": True}
