"""The umbrella chart on a node: installed on an empty bucket, filled by pipelines, and served."""

from __future__ import annotations

import base64
import copy
import datetime
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml
from helm_python import Chart

from tests.charts import support
from tests.cluster import release
from tests.cluster.control_plane import ClusterError
from tests.cluster.kubectl import Object
from tests.cluster.pods import credentials, images, steps
from tests.cluster.pods.callers import Searches, cli, python
from tests.cluster.pods.credentials import Credentials
from tests.cluster.pods.node import Node
from tests.cluster.pods.sandbox import BALANCER_RANGE
from tests.cluster.pods.steps import Steps
from tests.cluster.release import RELEASE, Home

READY_S = 600
WAITING_S = 60
"""How long a process runs before it is asked: importing its packages takes a while on a busy machine."""
PATCHES = 120
REPLICAS = 2
"""Pods of retrieval, as in the values."""
BUCKET = "s3://eoforge"
TABLE, CODES, RUNS = f"{BUCKET}/patches.lance", f"{BUCKET}/codes.lance", f"{BUCKET}/runs"
STORE = "dev-s3"
SERVICES = ("retrieval", "compression", "prediction", "federation")
WORKLOADS = (*SERVICES, "console")
RETRIEVAL = "eoforge.api.retrieval.v1.RetrievalService"
GRPC, REST, HEALTH, PAGES = 8081, 8080, 8082, 8090
ASK_HEALTH = """
import sys, grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
stub = health_pb2_grpc.HealthStub(grpc.insecure_channel(sys.argv[1]))
request = health_pb2.HealthCheckRequest(service=sys.argv[2])
answer = stub.Check(request, timeout=10, wait_for_ready=True)
print(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
"""
CONNECT = """
import json, socket, sys
found = {}
for target in sys.argv[1:]:
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=4).close()
        found[target] = True
    except OSError:
        found[target] = False
print(json.dumps(found))
"""
"""Which of some addresses HOST:PORT can be connected to."""


@dataclass
class Trial:
    """A release and what callers outside the cluster need.

    Attributes:
        node: The node.
        place: Namespace of the release.
        steps: Runs steps of pipelines there.
        credentials: Of callers.
        folder: For files of the trial.
        report: Lines with what was measured.
        bundle: Identity of the bundle that was trained, once there is one.
        classifier: Address of the bundle of the prediction service, which is installed once there is one.
        patch: Id of an indexed patch.
        console: Values of the console that differ from those of the trial.
    """

    node: Node
    place: Home
    steps: Steps
    credentials: Credentials
    folder: Path
    report: list[str]
    bundle: str = ""
    classifier: str = ""
    patch: str = ""
    console: Object = field(default_factory=dict)
    waiting: list[tuple[str, bool, int]] = field(default_factory=list)
    """What pods of retrieval said before there was an index: health, readiness, restarts."""

    def values(self, *, kserve: bool, **retrieval: Any) -> Object:
        """Values of the chart, with the tags of the images."""
        found: Object = yaml.safe_load(Path(__file__).with_name("values.yaml").read_text())
        found = copy.deepcopy(found)  # the anchor's parts are one object in several places
        for name in WORKLOADS:
            found[name]["image"] = {"tag": images.SERVED[name].rpartition(":")[2]}
        for service in SERVICES:
            found[service]["kserve"] = {"enabled": kserve}
        token = {"secretKeyRef": {"name": credentials.TOKEN, "key": "token"}}
        found["console"] |= {"extraEnv": [{"name": "EOFORGE_TOKEN", "valueFrom": token}]} | self.console
        found["prediction"] |= {"enabled": bool(self.classifier), "settings": {"bundleUris": self.classifier}}
        found["kubeflow"]["image"] = {"tag": images.SERVED["pipelines-python"].rpartition(":")[2]}
        found["retrieval"] |= retrieval
        return found

    def address(self, service: str) -> str:
        """``HOST:PORT`` of a service outside the cluster."""
        return f"{addresses()[service]}:{GRPC}"

    def install(self, *, kserve: bool) -> None:
        """Installs the release, and gives its services the addresses of a load balancer."""
        with self.place.helm() as helm, Chart.load(support.UMBRELLA) as chart:
            values = self.values(kserve=kserve)
            helm.install(chart, RELEASE, values, namespace=self.place.name, wait="hookOnly", timeout=READY_S)
        self.balance([service for service in SERVICES if service != "prediction"])

    def balance(self, services: Sequence[str]) -> None:
        """Gives services the addresses of a load balancer."""
        for service in services:
            status = {"status": {"loadBalancer": {"ingress": [{"ip": addresses()[service]}]}}}
            name = f"service/{RELEASE}-{service}-api"
            self.place.kubectl.run("patch", name, "--subresource=status", f"--patch={release.as_text(status)}")

    def upgrade(self, *, kserve: bool, **retrieval: Any) -> None:
        """Upgrades the release and waits until all is ready."""
        with self.place.helm() as helm, Chart.load(support.UMBRELLA) as chart:
            values = self.values(kserve=kserve, **retrieval)
            helm.upgrade(chart, RELEASE, values, namespace=self.place.name, wait="hookOnly", timeout=READY_S)
        self.wait_ready()

    def replace_pods(self, *, kserve: bool) -> None:
        """Upgrades the release so that every pod of retrieval is replaced, and waits until all are ready."""
        before = {pod["metadata"]["name"] for pod in self.pods("retrieval")}
        self.upgrade(kserve=kserve, podAnnotations={"trial": f"after {sorted(before)[0]}"})
        # KServe's status is that of the former pods for a moment.
        release.wait_until(
            lambda: before.isdisjoint(pod["metadata"]["name"] for pod in self.pods("retrieval")), "new pods", READY_S
        )
        self.wait_ready()

    def helm_test(self) -> str:
        """Logs of ``helm test``.

        Raises:
            HelmReleaseError: A test failed.
        """
        with self.place.helm() as helm:
            return str(helm.test(RELEASE, timeout=READY_S, logs=True)["logs"])

    def wait_ready(self) -> None:
        """Waits until every workload is ready and pods of earlier versions are gone."""
        release.wait_ready(self.place, READY_S)
        release.wait_until(
            lambda: not [p for p in self.place.kubectl.items("pods") if "deletionTimestamp" in p["metadata"]],
            "no pod that ends", READY_S,
        )  # fmt: skip

    def pods(self, service: str) -> list[Object]:
        """Pods of a service that serve and are not ending."""
        component = "" if service == STORE else ",app.kubernetes.io/component=server"
        name = "dev" if service == STORE else service
        found = self.place.kubectl.items("pods", f"--selector=app.kubernetes.io/name={name}{component}")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def restart(self, service: str, signal: str = "KILL") -> Object:
        """Ends the process of one pod by a signal, and waits until the pod is ready again; returns its status."""
        pod, began = self.pods(service)[0], time.monotonic()
        before = pod["status"]["containerStatuses"][0]
        self.node.kill(before["containerID"], signal)
        name = f"pod/{pod['metadata']['name']}"

        def status() -> Object:
            found: Object = self.place.kubectl.get(name)["status"]["containerStatuses"][0]
            return found

        release.wait_until(
            lambda: status()["ready"] and status()["restartCount"] > before["restartCount"], f"{name} again", READY_S
        )
        self.report.append(f"{service}: ready {time.monotonic() - began:.1f} s after SIG{signal}")
        return status()

    def health(self, pod: Object) -> str:
        """Health of the typed API of a pod of retrieval, asked from the node, as the kubelet's probe does."""
        target = f"{pod['status']['podIP']}:{HEALTH}"
        return self.node.sandbox.run(sys.executable, "-c", ASK_HEALTH, target, RETRIEVAL)

    def connects(self, pod: Object, *targets: str) -> dict[str, bool]:
        """Whether a pod of the release can connect to each of some addresses ``HOST:PORT``."""
        name = pod["metadata"]["name"]
        found = self.place.kubectl.run("exec", name, "--", "python", "-c", CONNECT, *targets)
        answer: dict[str, bool] = json.loads(found.splitlines()[-1])
        return answer

    def store(self) -> dict[str, str]:
        """``AWS_*`` variables for access to the store from outside the cluster."""
        secret = self.place.kubectl.get("secret/eoforge-s3")["data"]
        address = self.place.kubectl.get(f"service/{RELEASE}-{STORE}")["spec"]["clusterIP"]
        found = {key: base64.b64decode(value).decode() for key, value in secret.items()}
        return found | {"AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://{address}:8333"}

    def search(self, **environment: str) -> Any:
        """Hits of ``eoforge search`` from outside the cluster, with the token unless another is named."""
        query = ["search", "--server", self.address("retrieval"), "--patch-id", self.patch, "-k", "5"]
        return cli({"EOFORGE_TOKEN": self.credentials.token} | environment, *query, "--ca", str(self.credentials.ca))

    def browser(self) -> httpx.Client:
        """A browser outside the cluster, at the Service of the console."""
        address = self.place.kubectl.get(f"service/{RELEASE}-console-api")["spec"]["clusterIP"]
        return httpx.Client(base_url=f"http://{address}:{PAGES}", timeout=60)

    def search_page(self) -> httpx.Response:
        """Page of the console with the hits of :meth:`search`."""
        with self.browser() as browser:
            return browser.get("/search", params={"patch_id": self.patch, "from": "s1", "to": "s2", "k": "5"})

    @contextmanager
    def without(self, service: str) -> Iterator[None]:
        """No pod of a Deployment while the block runs; afterwards as many as before, ready."""
        name = f"deployment/{RELEASE}-{service}"
        pods = self.place.kubectl.get(name)["spec"]["replicas"]
        self.place.kubectl.run("scale", name, "--replicas=0")
        try:
            release.wait_until(lambda: not self.pods(service), f"no pod of {service}", READY_S)
            self.wait_ready()
            yield
        finally:
            self.place.kubectl.run("scale", name, f"--replicas={pods}")
        self.wait_ready()

    @contextmanager
    def searching(self, what: str, attempts: int = 5) -> Iterator[Searches]:
        """Searches from outside the cluster while the block runs; the report gets a line."""
        found = Searches(
            self.address("retrieval"), str(self.credentials.ca), self.credentials.token, self.patch, attempts
        )
        with found.in_background():
            yield found
        self.report.append(f"{what}: {found.summary()}")

    def watch_waiting(self) -> None:
        """Notes what retrieval does while there is no index, once its processes have run for a while."""
        release.wait_until(
            lambda: len(list(filter(_has_run, self.pods("retrieval")))) == REPLICAS, "processes of retrieval", READY_S
        )
        for pod in self.pods("retrieval"):
            status = pod["status"]["containerStatuses"][0]
            try:
                said = self.health(pod)
            except ClusterError:
                said = "no answer"
            self.waiting.append((said, status["ready"], status["restartCount"]))

    def serve(self) -> None:
        """Waits until the filled release is ready, prediction with it, and takes an indexed patch for queries."""
        began = time.monotonic()
        self.upgrade(kserve=True)
        self.balance(["prediction"])
        self.report.append(f"from the index to ready: {time.monotonic() - began:.0f} s")
        for service in WORKLOADS:
            seconds = [seconds_to_ready(pod) for pod in self.pods(service)]
            self.report.append(f"{service}: ready {seconds} s after the start of its pods")
        code = "from eoforge.storage.addresses import open_table; "
        code += f"print(open_table({CODES!r}).head(1, columns=['patch_id'])['patch_id'][0].as_py())"
        self.patch = python(self.store(), code)

    def fill(self) -> None:
        """Archive, table, model and index, made by steps of the compiled pipelines in pods of the cluster."""
        began = time.monotonic()
        archive = f"{steps.OUTPUTS}/archive"
        self.steps.eoforge("synth", archive, "--patches", str(PATCHES))
        plan = self.steps.step("ingest", "plan-ingest", archive=archive, table=TABLE, shard_rows=80, strict=True)
        for part in plan["Output"]:
            self.steps.step("ingest", "ingest-range", table=TABLE, shard_range=part)
        done = self.steps.step("ingest", "commit-ingest", table=TABLE, ingest_id=plan["ingest_id"])
        version = self.steps.step("ingest", "finish-table", table=TABLE, committed_version=done["version"])["Output"]
        self.report.append(f"ingestion in pods: {time.monotonic() - began:.0f} s")
        began = time.monotonic()
        trained = self.train(version)
        self.bundle = trained["bundle_id"]
        self.report.append(f"training step and TrainJob: {time.monotonic() - began:.0f} s")
        trainer = (
            "train",
            "reben",
            "--data",
            f"{TABLE}@{version}",
            "--out",
            RUNS,
            "--preset",
            "tiny",
            "epochs=1",
            "batch_size=16",
        )
        self.classifier = self.steps.eoforge(*trainer)["bundle"]
        began = time.monotonic()
        plan = self.steps.step(
            "index", "plan-index", bundle=trained["bundle"], table=TABLE, version=version, codes=CODES, shard_rows=200
        )
        for part in plan["Output"]:
            self.steps.step("index", "encode-range", bundle=trained["bundle"], codes=CODES, shard_range=part)
        self.steps.step("index", "commit-index", codes_table=plan["codes_table"], job_id=plan["job_id"])
        self.report.append(f"indexing in pods: {time.monotonic() - began:.0f} s")

    def train(self, version: str) -> dict[str, Any]:
        """Outputs of the training step, whose TrainJob runs on the CPU."""
        variables = steps.environment(steps.platform("train", "train"))
        task = {"resources": steps.RESOURCES, "env": variables}
        return self.steps.step(
            "train", "train", table=TABLE, version=version, runs=RUNS, method="ss_cm_rsir", preset="tiny",
            overrides=["epochs=1", "batch_size=16"], nodes=1, image=images.SERVED["pipelines-python"],
            runtime="torch-distributed", service_account=steps.ACCOUNT, timeout_hours=1, keep_job=True, gpus=0,
            cpu="2", memory="4Gi", task_config=task,
        )  # fmt: skip


def _has_run(pod: Object) -> bool:
    """Whether the process of a pod has run for a while, or ended."""
    (status,) = pod["status"].get("containerStatuses", [{"state": {}, "restartCount": 0}])
    if status["restartCount"] or "running" not in status["state"]:
        return bool(status["restartCount"])
    begun = datetime.datetime.fromisoformat(status["state"]["running"]["startedAt"])
    return (datetime.datetime.now(datetime.UTC) - begun).total_seconds() > WAITING_S


def addresses() -> dict[str, str]:
    """Addresses of the services outside the cluster, as a load balancer gives them."""
    prefix = BALANCER_RANGE.rpartition(".")[0]
    return {service: f"{prefix}.{10 + i}" for i, service in enumerate(SERVICES)}


def seconds_to_ready(pod: Object) -> int:
    """Seconds from the start of a pod to its readiness."""
    (ready,) = (c for c in pod["status"]["conditions"] if c["type"] == "Ready")
    begun, done = (
        datetime.datetime.fromisoformat(t) for t in (pod["status"]["startTime"], ready["lastTransitionTime"])
    )
    return round((done - begun).total_seconds())


@contextmanager
def trial(node: Node, folder: Path, report: list[str]) -> Iterator[Trial]:
    """A namespace with credentials and the steps' volume, and nothing installed."""
    with release.home(node.cluster) as place:
        names = {f"{RELEASE}-{service}-api": address for service, address in addresses().items()}
        found = Trial(
            node, place, Steps(place, folder / "steps"), credentials.make(place.kubectl, names, folder), folder, report
        )
        found.steps.prepare()
        yield found
