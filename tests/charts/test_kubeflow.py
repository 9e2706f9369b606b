"""What Kubeflow gets: pipelines that it can parse, with this installation's image, names that the steps look for."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from pipelines import settings
from tests.charts import support

COMPILED = support.ROOT / "pipelines" / "compiled"
VERSION = re.compile(r"v0-1-0-[0-9a-f]{8}")
NAMES = sorted(path.stem for path in COMPILED.glob("*.yaml"))


def documents(name: str) -> list[support.Object]:
    """The committed pipeline and its platform part."""
    return list(yaml.load_all((COMPILED / f"{name}.yaml").read_text(), Loader=yaml.CSafeLoader))


def version_of(found: list[support.Object], pipeline: str) -> support.Object:
    """The version of one pipeline."""
    (one,) = (o for o in found if o["kind"] == "PipelineVersion" and o["spec"]["pipelineName"] == pipeline)
    return one


def images(node: object) -> Iterator[str]:
    """Every text below a node that names the image: of a step, and of the training pods that a step starts."""
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from images(value)
    if isinstance(node, str) and "pipelines-python:" in node and " " not in node:
        yield node


@pytest.mark.parametrize("name", NAMES)
def test_pipeline_versions_are_what_kubeflow_reads(name: str) -> None:
    found = support.scenario("dev-minio")
    object_name = f"eoforge-{name.replace('_', '-')}"
    version = version_of(found, object_name)
    assert VERSION.fullmatch(version["metadata"]["name"].removeprefix(f"{object_name}-"))
    support.pick(found, "Pipeline", version["spec"]["pipelineName"])
    spec, platform = documents(name)
    parsed = json_format.ParseDict(version["spec"]["pipelineSpec"], pipeline_spec_pb2.PipelineSpec())
    assert parsed == json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    assert version["spec"]["platformSpec"] == platform


def test_the_object_has_the_fields_that_the_compiler_writes(tmp_path: Path) -> None:
    """kfp's own compiler is the reference: run apart, for kfp leaves modules and warnings behind."""
    script = (
        "import sys; from kfp.compiler import Compiler;"
        "from kfp.compiler.compiler_utils import KubernetesManifestOptions;"
        "from pipelines.definitions import all_pipelines;"
        "options = KubernetesManifestOptions(pipeline_name='p', pipeline_version_name='v', namespace='n', "
        "include_pipeline_manifest=True);"
        "Compiler().compile(all_pipelines()['evaluate'], sys.argv[1], kubernetes_manifest_format=True, "
        "kubernetes_manifest_options=options)"
    )
    out = tmp_path / "evaluate.yaml"
    subprocess.run([sys.executable, "-c", script, str(out)], check=True, capture_output=True, cwd=support.ROOT)
    theirs = {o["kind"]: o for o in yaml.load_all(out.read_text(), Loader=yaml.CSafeLoader)}
    found = support.scenario("dev-minio")
    ours = {
        "Pipeline": support.pick(found, "Pipeline", "eoforge-evaluate"),
        "PipelineVersion": version_of(found, "eoforge-evaluate"),
    }
    for kind, reference in theirs.items():
        assert ours[kind]["apiVersion"] == reference["apiVersion"]
        assert reference["spec"].keys() - {"pipelineVersionDescription"} <= ours[kind]["spec"].keys() | {"displayName"}
    assert ours["PipelineVersion"]["spec"]["pipelineSpec"] == theirs["PipelineVersion"]["spec"]["pipelineSpec"]
    assert ours["PipelineVersion"]["spec"]["platformSpec"] == theirs["PipelineVersion"]["spec"]["platformSpec"]


def test_another_image_is_another_version() -> None:
    """Kubeflow refuses to change a version that is there, and an upload leaves it alone."""
    for scenario, delivered in (("dev-minio", "objects"), ("minio", "upload")):
        values = support.values_of(scenario)
        named = []
        for image in ({}, {"registry": "other.example"}, {"digest": "sha256:" + "0" * 64}, {}):
            values["kubeflow"] = {**values.get("kubeflow", {}), "image": image}
            found = support.objects(support.render(support.UMBRELLA, values))
            if delivered == "objects":
                named.append(version_of(found, "eoforge-train")["metadata"]["name"])
            else:
                command = support.pick(found, "Job", "eo-pipelines-upload")["spec"]["template"]["spec"]["containers"]
                named += [word for word in command[0]["command"] if word.startswith("--version=0.1.0-")]
        assert len(named) == 4
        assert len(set(named)) == 3
        assert named[0] == named[3]


@pytest.mark.parametrize("scenario", ["minio", "gpu-aws", "kubeflow-profile"])
def test_uploaded_pipelines_carry_the_image_of_the_installation(scenario: str) -> None:
    found = support.scenario(scenario)
    job = support.pick(found, "Job", "eo-pipelines-upload")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    mounted = support.pick(found, "ConfigMap", "eo-pipelines")
    wanted = support.values_of(scenario)["kubeflow" if scenario == "kubeflow-profile" else "global"]
    assert set(mounted["data"]) == {f"{name}.yaml" for name in (wanted.get("pipelines", {}).get("names") or NAMES)}
    for name, text in mounted["data"].items():
        spec, platform = yaml.load_all(text, Loader=yaml.CSafeLoader)
        assert set(images(spec)) == {container["image"]}, name
        assert platform == documents(name.removesuffix(".yaml"))[1]
    assert sum(map(len, mounted["data"].values())) < 1 << 20, "a config map holds 1 MiB"


def test_the_compiled_pipelines_name_the_image_that_the_chart_replaces() -> None:
    assert {image for name in NAMES for image in images(documents(name)[0])} == {settings.IMAGE}
    template = (support.UMBRELLA / "templates" / "_kubeflow.tpl").read_text()
    assert f'"{settings.IMAGE}"' in template
    steps = list(images(documents("train")[0]))
    assert len(steps) == 3, "the step, its variable for lineage, and the default of the TrainJob's image"


def test_steps_find_config_map_and_secret_under_their_names() -> None:
    found = support.scenario("minio")
    config = support.pick(found, "ConfigMap", settings.CONFIG_MAP)
    assert config["data"].keys() <= settings.CONFIG_KEYS.keys()
    assert config["data"]["AWS_ENDPOINT_URL"] == "http://minio.minio.svc:9000"
    aws = support.pick(support.scenario("gpu-aws"), "ConfigMap", settings.CONFIG_MAP)
    assert "AWS_ENDPOINT_URL" not in aws["data"]
    assert aws["metadata"]["namespace"] == "kubeflow"
    secret = support.pick(support.scenario("dev-minio"), "Secret", settings.SECRET)
    assert secret["data"].keys() == settings.SECRET_KEYS.keys()
    assert settings.SERVICE_ACCOUNT in support.pick(found, "RoleBinding")["subjects"][0]["name"]
    assert support.pick(found, "TrainingRuntime")["metadata"]["name"] == settings.TRAINING_RUNTIME


def test_a_multi_user_kubeflow_gets_a_token_of_its_own_audience() -> None:
    job = support.pick(support.scenario("kubeflow-profile"), "Job")
    spec = job["spec"]["template"]["spec"]
    (token,) = (v for v in spec["volumes"] if v["name"] == "token")
    assert token["projected"]["sources"][0]["serviceAccountToken"]["audience"] == "pipelines.kubeflow.org"
    env = support.env_of(spec["containers"][0])
    assert env["KF_PIPELINES_SA_TOKEN_PATH"] == "/var/run/secrets/kubeflow/pipelines/token"
    assert spec["serviceAccountName"] == "default-editor"
    assert "--namespace=team-a" in spec["containers"][0]["command"]


def test_text_of_values_stays_text_in_the_upload() -> None:
    """A service account may be called 0123, and a host may hold what YAML reads as a mapping or a comment."""
    values = support.values_of("dev-minio")
    given = {"delivery": "upload", "host": "http://kfp:8888/a: b #c", "tokenAudience": "pipelines"}
    values["kubeflow"] = values.get("kubeflow", {}) | {"serviceAccounts": ["0123"], "pipelines": given}
    found = support.objects(support.render(support.UMBRELLA, values))
    (job,) = (o for o in found if o["kind"] == "Job" and o["metadata"]["name"].endswith("-upload"))
    pod = job["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "0123"
    assert "--host=http://kfp:8888/a: b #c" in pod["containers"][0]["command"]
    assert all(isinstance(part, str) for part in pod["containers"][0]["command"])
