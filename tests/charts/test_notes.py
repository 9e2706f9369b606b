"""NOTES.txt and ``helm test``: what an operator pastes works against a server that holds the release."""

from __future__ import annotations

import base64
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from helm_python import Chart, Config, HelmError

from tests.charts import apiserver, support
from tests.charts.apiserver import Cluster
from tests.charts.support import NAMESPACE, RELEASE, SERVICES, UMBRELLA, WEB, enabled

COMMAND = re.compile(r"^(?:  |  by hand: )((?:kubectl|helm|eoforge|export) .*)$", flags=re.M)


@pytest.fixture
def cluster() -> Iterator[tuple[Cluster, Config, str]]:
    """A server, Helm's connection to it, and its address."""
    with (
        apiserver.running() as (found, address),
        Config(kube_apiserver=address, namespace=NAMESPACE, storage_driver="memory") as config,
    ):
        yield found, config, address


def install(helm: Config, scenario: str) -> list[str]:
    """Installs a scenario and returns the commands of its notes."""
    with Chart.load(os.fspath(UMBRELLA)) as chart:
        helm.install(chart, RELEASE, support.values_of(scenario), namespace=NAMESPACE, wait="hookOnly", timeout=300)
    return COMMAND.findall(support.scenario_files(scenario)["eoforge/templates/NOTES.txt"])


@pytest.mark.parametrize("scenario", ["dev", "minio"])
def test_the_commands_of_the_notes_work_when_pasted(
    scenario: str, cluster: tuple[Cluster, Config, str], tmp_path: Path
) -> None:
    server, helm, address = cluster
    commands = install(helm, scenario)
    if scenario == "minio":  # the operator's own secret, which the notes ask for
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "eoforge-s3", "namespace": NAMESPACE}}
        server.create(("v1", "secrets", NAMESPACE, "eoforge-s3"), secret)
    run = []
    for command in commands:
        words = shlex.split(command.removesuffix(" &"))
        if "port-forward" in words:
            name, port = words[-2].removeprefix("svc/"), int(words[-1])
            found = server.get(("v1", "services", words[words.index("--namespace") + 1], name))
            assert port in [p["port"] for p in found["spec"]["ports"]], command
        elif words[0] in ("kubectl", "export"):
            run.append(command)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment |= {"HOME": os.fspath(tmp_path), "KUBECONFIG": os.fspath(tmp_path / "config")}
    here = {"clusters": [{"name": "c", "cluster": {"server": address}}], "current-context": "c"}
    here |= {"contexts": [{"name": "c", "context": {"cluster": "c", "user": ""}}]}
    (tmp_path / "config").write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **here}))
    program = "\n".join([*run, 'echo "$AWS_ACCESS_KEY_ID $AWS_SECRET_ACCESS_KEY"'])
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        environment[name] = "none"
    done = subprocess.run(["bash", "-ec", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if scenario == "dev":
        data = server.get(("v1", "secrets", NAMESPACE, "eoforge-s3"))["data"]
        keys = [base64.b64decode(data[f"AWS_{key}"]).decode() for key in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY")]
        assert done.stdout.splitlines()[-1].split() == keys
        assert "eoforge doctor s3://eoforge" in commands
    else:
        assert "configmap/eoforge-config" in done.stdout
    assert f"helm test {RELEASE} --namespace {NAMESPACE} --logs" in commands
    assert sum("port-forward svc/eo-" in c and "-api" in c for c in commands) == len(SERVICES) + sum(
        enabled(scenario, web) for web in WEB
    )


def test_helm_test_runs_one_pod_a_service_and_reports_a_failure(cluster: tuple[Cluster, Config, str]) -> None:
    server, helm, _ = cluster
    install(helm, "plain")
    helm.test(RELEASE, timeout=300)
    asked = {label for label in server.created if label.startswith("Pod/")}
    assert asked == {f"Pod/eo-{service}-test" for service in (*SERVICES, *WEB)}
    server.failing.add("eo-compression-test")
    with pytest.raises(HelmError, match="eo-compression-test"):
        helm.test(RELEASE, timeout=300)


def test_the_doctor_stops_an_upgrade_and_what_ran_goes_on(cluster: tuple[Cluster, Config, str]) -> None:
    server, helm, _ = cluster
    install(helm, "plain")
    before = {key: o["metadata"]["resourceVersion"] for key, o in server.objects.items()}
    server.failing.add("eo-eoforge-doctor")
    values = {
        **support.values_of("plain"),
        "retrieval": {**support.values_of("plain")["retrieval"], "podLabels": {"a": "b"}},
    }
    with Chart.load(os.fspath(UMBRELLA)) as chart, pytest.raises(HelmError, match="pre-upgrade"):
        helm.upgrade(chart, RELEASE, values, namespace=NAMESPACE, wait="hookOnly", timeout=300)
    after = {key: o["metadata"]["resourceVersion"] for key, o in server.objects.items() if key in before}
    assert after == before
