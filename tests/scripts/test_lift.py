"""What podman runs is what the chart says: lifted pods keep everything that matters, and none at all is a failure."""

from __future__ import annotations

import pytest

from eoforge.errors import NotFound
from scripts.podman import services as podman_services
from scripts.podman.engine import NOT_HERE
from scripts.podman.lift_pods import Lifted, lift, render
from tests.charts import support
from tests.charts.support import SERVICES


@pytest.fixture(scope="module")
def objects() -> list[support.Object]:
    """The umbrella with the values of the podman run."""
    return render(podman_services.values(), "eo", "default")


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


def test_without_podman_the_run_says_loudly_that_it_did_not_happen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("scripts.podman.services.shutil.which", lambda name: None if name == "podman" else name)
    assert podman_services.main([]) == NOT_HERE
    assert capsys.readouterr().err == "NOT RUN: no podman on this machine: apt-get install podman\n"


def test_without_root_the_run_says_why_it_did_not_happen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("scripts.podman.services.shutil.which", lambda name: name)
    monkeypatch.setattr("scripts.podman.services.os.geteuid", lambda: 1000)
    assert podman_services.main([]) == NOT_HERE
    assert "needs root" in capsys.readouterr().err
