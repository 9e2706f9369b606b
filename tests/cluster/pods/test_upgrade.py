"""Upgrade from the charts of an earlier commit to these, on a node: what a rendered comparison cannot show."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from helm_python import Chart

from tests.charts import support
from tests.cluster import release
from tests.cluster.kubectl import Object
from tests.cluster.pods import credentials, images
from tests.cluster.pods.trial import READY_S, STORE, Trial
from tests.cluster.release import RELEASE, Home

EARLIER = "1da9322"
"""The last commit whose charts named a model of KServe, and no container."""


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Charts of the earlier commit."""
    folder = tmp_path_factory.mktemp("earlier")
    command = ["git", "-C", str(support.ROOT), "archive", EARLIER, "charts", "pipelines/compiled"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"this clone does not hold commit {EARLIER}: {done.stderr.decode().strip()}")
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="tar")
    return folder / "charts"


@pytest.fixture
def place(filled: Trial, tmp_path: Path) -> Iterator[Home]:
    """A namespace of its own, whose services use the store of the trial."""
    with release.home(filled.node.cluster) as found:
        secret = filled.place.kubectl.get("secret/eoforge-s3")
        found.kubectl.apply(
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "eoforge-s3"}, "data": secret["data"]}
        )
        credentials.make(found.kubectl, {f"{RELEASE}-retrieval-api": "10.199.3.99"}, tmp_path)
        yield found


def values(trial: Trial, *, kserve: bool) -> Object:
    """Values of the retrieval service alone, good for both charts."""
    own = trial.values(kserve=kserve)["retrieval"]
    s3 = {"bucket": "eoforge", "existingSecret": "eoforge-s3"}
    s3["endpoint"] = f"http://{RELEASE}-{STORE}.{trial.place.name}:8333"
    image = {"registry": "localhost", "tag": images.SERVED["retrieval"].rpartition(":")[2]}
    return {**own, "replicas": 1, "image": image, "s3": s3, "service": {"type": "ClusterIP"}}


def change(place: Home, chart: Path, given: Object, *, first: bool) -> None:
    """Installs or upgrades, without waiting for pods."""
    with place.helm() as helm, Chart.load(chart) as loaded:
        act = helm.install if first else helm.upgrade
        act(loaded, RELEASE, given, namespace=place.name, wait="hookOnly", timeout=READY_S)


def test_a_release_that_never_got_ready_under_kserve_does(filled: Trial, place: Home, earlier: Path) -> None:
    given = values(filled, kserve=True)
    change(place, earlier / "retrieval", given, first=True)
    own = f"--selector=app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component=server"

    def agent_failed() -> bool:
        states = [s for p in place.kubectl.items("pods", own) for s in p["status"].get("containerStatuses", [])]
        return any(s["name"] == "agent" and not s["ready"] and s["restartCount"] > 1 for s in states)

    release.wait_until(agent_failed, "restarts of KServe's agent", READY_S)
    change(place, support.CHARTS / "retrieval", given, first=False)
    release.wait_ready(place, READY_S)
    (pod,) = (p for p in place.kubectl.items("pods", own) if "deletionTimestamp" not in p["metadata"])
    assert [c["name"] for c in pod["spec"]["containers"]] == ["kserve-container"]


def test_a_release_without_kserve_stays_ready(filled: Trial, place: Home, earlier: Path) -> None:
    given = values(filled, kserve=False)
    change(place, earlier / "retrieval", given, first=True)
    release.wait_ready(place, READY_S)
    change(place, support.CHARTS / "retrieval", given, first=False)
    release.wait_ready(place, READY_S)
    with place.helm() as helm:
        assert helm.test(RELEASE, timeout=READY_S, logs=True)["logs"]
