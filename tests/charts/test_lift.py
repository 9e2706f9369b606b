"""What podman runs is what the chart says: lifted pods keep everything that matters, and none at all is a failure."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from eoforge.errors import NotFound, UsageError
from pipelines.settings import USER_ID
from scripts import images, podman_services
from scripts.lift_pods import Lifted, lift, render
from tests.charts import support
from tests.charts.support import ROOT, SERVICES


@pytest.fixture(scope="module")
def objects() -> list[support.Object]:
    """The umbrella with the values of the podman run."""
    return render(yaml.safe_load(podman_services.VALUES.read_text()), "eo", "default")


@pytest.fixture(scope="module")
def lifted(objects: list[support.Object]) -> dict[tuple[str, str], Lifted]:
    """Its pods, lifted."""
    return {(p.service, p.component): p for p in lift(objects, {"eo-dev-s3": "10.0.0.1"})}


def test_every_workload_becomes_a_pod(objects: list[support.Object], lifted: dict[tuple[str, str], Lifted]) -> None:
    assert set(lifted) == {(s, c) for s in SERVICES for c in ("server", "test")} | {("dev", "")}
    kinds = {o["kind"] for o in objects}
    assert {"InferenceService", "Deployment", "StatefulSet"} <= kinds, "each way of running a service is tried"


def test_lifted_pods_are_the_rendered_pods(
    objects: list[support.Object], lifted: dict[tuple[str, str], Lifted]
) -> None:
    """Compared with the tests' own reading of the chart, which knows nothing of lifting."""
    for pod in support.pods(objects):
        found = lifted[pod.labels["app.kubernetes.io/name"], pod.labels.get("app.kubernetes.io/component", "")]
        spec = found.manifest["spec"]
        assert spec["securityContext"] == pod.spec["securityContext"]
        assert [i["command"] for i in spec.get("initContainers", [])] == [
            i["command"] for i in pod.spec.get("initContainers", [])
        ]
        (ours,), (theirs,) = spec["containers"], pod.spec["containers"]
        changed = {"volumeMounts", "ports"}
        assert {k: v for k, v in ours.items() if k not in changed} == {
            k: v for k, v in theirs.items() if k not in changed
        }
        assert [m["mountPath"] for m in ours["volumeMounts"]] == [m["mountPath"] for m in theirs["volumeMounts"]]
        names = [volume["name"] for volume in spec["volumes"]]
        assert {m["name"] for m in ours["volumeMounts"]} <= set(names)
        assert all(name.startswith(found.name) for name in names)
        assert spec["hostAliases"] == [{"ip": "10.0.0.1", "hostnames": ["eo-dev-s3"]}]


def test_no_pods_is_a_failure(objects: list[support.Object]) -> None:
    with pytest.raises(NotFound, match="no pods"):
        lift([o for o in objects if o["kind"] == "Service"], {})


def test_an_inference_service_without_its_runtime_is_refused(objects: list[support.Object]) -> None:
    with pytest.raises(UsageError, match="serving runtime"):
        lift([o for o in objects if o["kind"] != "ServingRuntime"], {})


@pytest.mark.parametrize("name", images.DOCKERFILES)
def test_images_are_pinned_labelled_and_run_as_nobody_in_particular(name: str) -> None:
    text = (ROOT / images.DOCKERFILES[name]).read_text()
    stages = re.split(r"^FROM ", text, flags=re.M)
    final = stages[-1]
    assert all(stage.startswith("${BASE}") or " AS " in stage.splitlines()[0] for stage in stages[1:])
    assert re.search(rf"^USER {USER_ID}:{USER_ID}$", final, flags=re.M)
    assert "--require-hashes" in text
    lock = "pipelines" if name.startswith("pipelines") else "serve"
    assert f"requirements/{lock}.txt" in text
    assert (ROOT / "requirements" / f"{lock}.txt").exists()
    for label in ("title", "description", "version", "revision", "licenses"):
        assert f"org.opencontainers.image.{label}=" in final
    launches_kernels = name != "federation"
    assert ("gcc" in final) is launches_kernels
    assert "TRITON_CACHE_DIR=/var/cache/eoforge" in final
    assert 'VOLUME ["/tmp", "/var/cache/eoforge"]' in final
    assert "sbom.cdx.json" in final


def test_the_services_share_the_layer_of_their_dependencies() -> None:
    """The same instructions up to there make the same layer: 6.5 GB that are stored and pulled once."""
    heads = set()
    for name in SERVICES:
        text = (ROOT / images.DOCKERFILES[name]).read_text()
        stage = re.search(r"^FROM \$\{BASE\} AS dependencies\n(.*?)^FROM", text, flags=re.M | re.S)
        last = re.search(r"^FROM \$\{BASE\}\n(.*\n)", text, flags=re.M)
        assert stage is not None
        assert last is not None
        heads.add((stage.group(1), last.group(1)))
    assert len(heads) == 1


def test_only_what_an_image_needs_is_sent_to_the_build() -> None:
    kept = {line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = set()
    for path in images.DOCKERFILES.values():
        for line in Path(ROOT / path).read_text().splitlines():
            if line.startswith("COPY ") and "--from" not in line:
                copied |= {source.partition("/")[0] for source in line.split()[1:-1]}
    assert copied == kept


def test_the_chart_asks_for_the_images_that_are_built() -> None:
    built = {f"eoforge/{name}:{images.version()}" for name in images.DOCKERFILES}
    found = support.scenario("plain") + support.scenario("gpu-aws")
    asked = {c["image"] for pod in support.pods(found) for c in pod.containers}
    assert asked == built


def test_without_podman_the_run_says_loudly_that_it_did_not_happen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("scripts.podman_services.shutil.which", lambda name: None)
    assert podman_services.main([]) == podman_services.NOT_HERE
    assert "NOT RUN" in capsys.readouterr().err
