"""The release under KServe: first installation, searches from outside, tests of the charts, restarts, upgrades."""

from __future__ import annotations

import json

import grpc
import numpy as np
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as oip_pb2
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as oip_grpc

from eoforge.client import RetrievalClient
from eoforge.data.labels import CLASSES
from eoforge.errors import EoforgeError
from tests.cluster.pods import images, steps
from tests.cluster.pods.sandbox import HOST
from tests.cluster.pods.trial import CONNECT, GRPC, HEALTH, READY_S, REST, WORKLOADS, Trial

FACTS = """
import json, os, pathlib, shutil
status = dict(line.split(":", 1) for line in pathlib.Path("/proc/1/status").read_text().splitlines())
try:
    pathlib.Path("/opt/written").touch()
    written = True
except OSError:
    written = False
sbom = json.load(open("/usr/share/doc/eoforge/sbom.cdx.json"))
print(json.dumps({
    "user": os.getuid(), "written": written, "capabilities": int(status["CapEff"], 16),
    "no_new_privileges": status["NoNewPrivs"].strip(), "compiler": shutil.which("cc") or shutil.which("gcc"),
    "token": os.path.exists("/var/run/secrets/kubernetes.io"),
    "packages": len(sbom["components"]), "rss_mib": int(status["VmRSS"].split()[0]) // 1024,
}))
"""


def test_a_first_installation_waits_for_its_index(empty: Trial, filled: Trial) -> None:
    assert empty.waiting == [("NOT_SERVING", False, 0)] * 2
    restarts = [pod["status"]["containerStatuses"][0]["restartCount"] for pod in filled.pods("retrieval")]
    assert restarts == [0, 0], "pods that waited serve, without a restart"


def test_searches_come_from_outside_over_tls_with_a_token(filled: Trial) -> None:
    assert len(filled.search()) == 5
    with pytest.raises(EoforgeError, match=r"UNAUTHENTICATED|authorization"):
        filled.search(EOFORGE_TOKEN="")
    with pytest.raises(EoforgeError):
        filled.search(EOFORGE_TOKEN=filled.credentials.token[:-8] + "AAAAAAAA")


def test_the_trained_bundle_is_served(filled: Trial) -> None:
    """The TrainJob ran as KServe's neighbour on the CPU, and its bundle answers."""
    (job,) = filled.place.kubectl.items("trainjobs.trainer.kubeflow.org")
    assert [c["type"] for c in job["status"]["conditions"] if c["status"] == "True"] == ["Complete"]
    ca, token = str(filled.credentials.ca), filled.credentials.token
    with RetrievalClient(filled.address("retrieval"), token=token, ca_file=ca) as client:
        (served,) = client.indexes()
    assert served.bundle_id == filled.bundle


def test_predictions_come_from_outside(filled: Trial) -> None:
    """The classifier that was trained in a pod answers over KServe's protocol."""
    ca, model = filled.credentials.ca.read_bytes(), "eoforge-predict-s1s2"
    known = {"metadata": (("authorization", f"Bearer {filled.credentials.token}"),), "timeout": 60}
    with grpc.secure_channel(filled.address("prediction"), grpc.ssl_channel_credentials(ca)) as channel:
        stub = oip_grpc.GRPCInferenceServiceStub(channel)
        request = oip_pb2.ModelInferRequest(model_name=model)
        for tensor in stub.ModelMetadata(oip_pb2.ModelMetadataRequest(name=model), **known).inputs:
            shape = [1, *tensor.shape[1:]]
            request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=shape)
            kind, value = {"FP32": ("<f4", -12.0), "UINT16": ("<u2", 1000)}[tensor.datatype]  # dB; reflectance
            request.raw_input_contents.append(np.full(shape, value, kind).tobytes())
        answer = stub.ModelInfer(request, **known)
    found = dict(zip([o.name for o in answer.outputs], answer.raw_output_contents, strict=True))
    probabilities = np.frombuffer(found["probabilities"], "<f4")
    assert probabilities.shape == (len(CLASSES),)
    assert ((probabilities > 0) & (probabilities < 1)).all()


def test_the_tests_of_the_charts_pass(filled: Trial) -> None:
    assert filled.helm_test().count("health: SERVING") == len(WORKLOADS)


@pytest.mark.parametrize("service", WORKLOADS)
def test_pods_are_restricted(service: str, filled: Trial) -> None:
    name = filled.pods(service)[0]["metadata"]["name"]
    found = json.loads(filled.place.kubectl.run("exec", name, "--", "python", "-c", FACTS).splitlines()[-1])
    filled.report.append(f"{service}: {found.pop('rss_mib')} MiB resident, {found.pop('packages')} packages listed")
    expected = {"user": 10001, "written": False, "capabilities": 0, "no_new_privileges": "1", "compiler": None}
    assert found == expected | {"token": False}


def test_network_policies_hold(filled: Trial) -> None:
    """A stranger reaches gRPC alone, a server reaches names and the store alone; without a policy both reach more."""
    server = filled.pods("retrieval")[0]
    address = server["status"]["podIP"]
    api = filled.node.cluster.address.removeprefix("https://")
    store = filled.store()["AWS_ENDPOINT_URL"].removeprefix("http://")
    ports = [f"{address}:{port}" for port in (GRPC, REST, HEALTH)]
    command = ["python", "-c", CONNECT, *ports, api]
    stranger = json.loads(steps.run(filled.place, steps.pod("stranger", images.SERVED["retrieval"], command)))
    assert stranger == dict(zip([*ports, api], [True, False, False, True], strict=True))
    assert filled.health(server) == "SERVING", "the node reaches what a stranger does not"
    assert filled.connects(server, api, store) == {api: False, store: True}
    assert api.startswith(HOST)


def test_a_killed_pod_fails_no_search(filled: Trial) -> None:
    with filled.searching("one of two retrieval pods killed") as searches:
        filled.restart("retrieval")
    assert searches.answered > 0
    assert searches.failed == []


@pytest.mark.parametrize("service", WORKLOADS)
def test_a_stopped_server_ends_cleanly(service: str, filled: Trial) -> None:
    assert filled.restart(service, "TERM")["lastState"]["terminated"]["exitCode"] == 0


def test_an_upgrade_under_load_fails_no_search(filled: Trial) -> None:
    with filled.searching("rolling upgrade under KServe") as searches:
        filled.replace_pods(kserve=True)
    assert searches.answered > 0
    assert searches.failed == []


def test_images_run_as_any_user(filled: Trial) -> None:
    """OpenShift gives each namespace a user of its own, whose group is 0."""
    user = {"runAsUser": 1000680000, "runAsGroup": 0, "fsGroup": 1000680000}
    names = []
    for service in ("retrieval", "compression", "console"):
        spec = filled.pods(service)[0]["spec"]
        names.append(f"any-user-{service}")
        kept = ("containers", "initContainers", "volumes", "terminationGracePeriodSeconds")
        made = {key: spec[key] for key in kept if key in spec} | {"automountServiceAccountToken": False}
        made["securityContext"] = spec["securityContext"] | user
        filled.place.kubectl.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": names[-1]}, "spec": made})
    try:
        pods = [f"pod/{name}" for name in names]
        filled.place.kubectl.run("wait", "--for=condition=Ready", *pods, f"--timeout={READY_S}s")
        for pod in pods:
            assert filled.place.kubectl.run("exec", pod, "--", "id", "-u").splitlines()[-1] == "1000680000"
    finally:
        filled.place.kubectl.run("delete", *pods, "--grace-period=1")
