"""A release's life through the Helm engine, against a server with strict field validation: from install to its end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helm_python import Chart, Config, HelmError, package

from tests.charts import apiserver, support
from tests.charts.apiserver import Cluster
from tests.charts.support import CHARTS, NAMESPACE, RELEASE, UMBRELLA

HOOKS = {"helm.sh/hook"}


@pytest.fixture
def cluster() -> Iterator[tuple[Cluster, Config]]:
    """A server and Helm's connection to it; releases are kept in memory."""
    with (
        apiserver.running() as (found, address),
        Config(kube_apiserver=address, namespace=NAMESPACE, storage_driver="memory") as config,
    ):
        yield found, config


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The umbrella as archives of two releases; all charts of the second have a new version."""
    folder = tmp_path_factory.mktemp("charts")
    made = {"0.1.0": Path(package(os.fspath(UMBRELLA), destination=os.fspath(folder)))}
    shutil.copytree(CHARTS, folder / "next", symlinks=True)
    (folder / "next" / "eoforge" / "pipelines").unlink()
    shutil.copytree(support.ROOT / "pipelines" / "compiled", folder / "next" / "eoforge" / "pipelines")
    for path in (folder / "next").glob("*/Chart.yaml"):
        path.write_text(path.read_text().replace("ersion: 0.1.0", "ersion: 0.2.0"))
    made["0.2.0"] = Path(package(os.fspath(folder / "next" / "eoforge"), destination=os.fspath(folder)))
    return made


def expected(name: str) -> set[str]:
    """Objects of a scenario that are no hooks."""
    return {support.label(o) for o in support.scenario(name) if not HOOKS & o["metadata"].get("annotations", {}).keys()}


def versions(server: Cluster) -> set[str]:
    """Versions on the labels of everything that is there."""
    return {o["metadata"]["labels"]["app.kubernetes.io/version"] for o in server.objects.values()}


@pytest.mark.parametrize("name", ["minio", "plain"])
def test_a_release_lives_and_ends(name: str, cluster: tuple[Cluster, Config], releases: dict[str, Path]) -> None:
    server, helm = cluster
    values = support.values_of(name)
    with Chart.load(releases["0.1.0"]) as chart:
        helm.install(chart, RELEASE, values, namespace=NAMESPACE, wait="hookOnly", timeout=300)
    assert server.labels() == expected(name)
    first = {key: o["metadata"].get("uid") for key, o in server.objects.items()}
    with Chart.load(releases["0.2.0"]) as chart:
        helm.upgrade(chart, RELEASE, values, namespace=NAMESPACE, wait="hookOnly", timeout=300)
    kept = {key: o["metadata"].get("uid") for key, o in server.objects.items() if key in first}
    assert kept.items() <= first.items(), "an upgrade must not delete and make anew"
    assert versions(server) == {"0.2.0"}
    helm.rollback(RELEASE, version=1, timeout=300)
    assert versions(server) == {"0.1.0"}
    assert server.labels() == expected(name)
    assert [r["revision"] for r in helm.history(RELEASE)] == [1, 2, 3]
    helm.uninstall(RELEASE, timeout=300)
    assert server.labels() == set()


def test_pipelines_get_a_further_version_and_keep_the_old_ones(cluster: tuple[Cluster, Config]) -> None:
    """Runs that recur name the version that they were made with; the server changes none."""
    server, helm = cluster
    values = support.values_of("kubeflow-profile")
    values["kubeflow"]["pipelines"] = {"delivery": "objects", "names": ["evaluate"]}
    other = {**values, "kubeflow": {**values["kubeflow"], "image": {"registry": "other.example"}}}
    seen = []
    for step, given in ((helm.install, values), (helm.upgrade, other)):
        with Chart.load(os.fspath(UMBRELLA)) as chart:
            step(chart, RELEASE, given, namespace=NAMESPACE, wait="hookOnly", timeout=300)
        seen.append({label for label in server.labels() if label.startswith("PipelineVersion/")})
    assert (len(seen[0]), len(seen[1])) == (1, 2)
    assert seen[0] < seen[1]
    helm.rollback(RELEASE, version=1, timeout=300)
    assert {label for label in server.labels() if label.startswith("PipelineVersion/")} == seen[1]


def test_the_doctor_runs_first_and_its_failure_stops_the_install(cluster: tuple[Cluster, Config]) -> None:
    server, helm = cluster
    server.failing.add("eo-eoforge-doctor")
    with Chart.load(os.fspath(UMBRELLA)) as chart, pytest.raises(HelmError) as stopped:
        helm.install(chart, RELEASE, support.values_of("minio"), namespace=NAMESPACE, wait="hookOnly", timeout=300)
    assert "pre-install" in str(stopped.value)
    assert server.created[-1] == "Job/eo-eoforge-doctor"
    assert set(server.created[:-1]) == {"NetworkPolicy/eo-eoforge-doctor", "ServiceAccount/eo-eoforge-doctor"}
    assert not [label for label in server.labels() if "doctor" not in label], "services must not be there"


def test_the_development_stores_credentials_survive_an_upgrade(cluster: tuple[Cluster, Config]) -> None:
    server, helm = cluster
    values = support.values_of("dev")
    secrets = []
    for step in (helm.install, helm.upgrade):
        with Chart.load(os.fspath(UMBRELLA)) as chart:
            step(chart, RELEASE, values, namespace=NAMESPACE, wait="hookOnly", timeout=300)
        secrets.append(server.get(("v1", "secrets", NAMESPACE, "eoforge-s3"))["data"])
    assert secrets[0] == secrets[1]


def test_an_unknown_field_is_refused_by_the_server(cluster: tuple[Cluster, Config], tmp_path: Path) -> None:
    """The stand-in is no yes-man: the same chart with one misspelt field does not install."""
    _, helm = cluster
    copied = tmp_path / "charts"
    shutil.copytree(CHARTS, copied, symlinks=True, ignore=shutil.ignore_patterns("eoforge", "eoforge-dev"))
    library = copied / "eoforge-common" / "templates" / "_pod.tpl"
    library.write_text(library.read_text().replace("terminationMessagePolicy:", "terminationMessagePolice:"))
    values = {"s3": {"bucket": "lake"}, "auth": {"anonymous": True}, "doctor": {"enabled": False}}
    with Chart.load(os.fspath(copied / "retrieval")) as chart, pytest.raises(HelmError) as refused:
        helm.install(chart, RELEASE, values, namespace=NAMESPACE, wait="hookOnly", timeout=300)
    assert "terminationMessagePolice" in str(refused.value)


def test_a_changed_selector_is_refused_by_the_server(cluster: tuple[Cluster, Config], tmp_path: Path) -> None:
    """What the upgrade test relies on: a version in a selector would break every upgrade, and is noticed."""
    _, helm = cluster
    copied = tmp_path / "charts"
    shutil.copytree(CHARTS, copied, symlinks=True, ignore=shutil.ignore_patterns("eoforge", "eoforge-dev"))
    values = {"s3": {"bucket": "lake"}, "auth": {"anonymous": True}, "doctor": {"enabled": False}}
    values["kserve"] = {"enabled": False}
    with Chart.load(os.fspath(copied / "retrieval")) as chart:
        helm.install(chart, RELEASE, values, namespace=NAMESPACE, wait="hookOnly", timeout=300)
    library = copied / "eoforge-common" / "templates" / "_names.tpl"
    changed = library.read_text().replace(
        "app.kubernetes.io/instance: {{ .Release.Name | quote }}\n{{- end -}}",
        "app.kubernetes.io/instance: {{ .Release.Name | quote }}\nversion: v2\n{{- end -}}",
    )
    library.write_text(changed)
    with Chart.load(os.fspath(copied / "retrieval")) as chart, pytest.raises(HelmError) as refused:
        helm.upgrade(chart, RELEASE, values, namespace=NAMESPACE, wait="hookOnly", timeout=300)
    assert "immutable" in str(refused.value)
