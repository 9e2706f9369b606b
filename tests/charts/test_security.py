"""Pod security "restricted" over every pod, no credential in a manifest, and rights as small as the training step."""

from __future__ import annotations

import ast
import copy
from typing import Any

import pytest

from pipelines.settings import USER_ID
from tests.charts import support
from tests.charts.support import SCENARIOS, Pod

WRITTEN = {"/tmp", "/var/cache/eoforge"}
VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip


def violations(pod: Pod, assigned: bool = False) -> list[str]:
    """What pod security "restricted" (v1.36 rules) has against a pod, and what our charts add to that."""
    spec, found = pod.spec, []
    found += [key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    context = spec.get("securityContext", {})
    if context.get("sysctls"):
        found.append("sysctls")
    for volume in spec.get("volumes", []):
        kinds = volume.keys() - {"name"}
        if not kinds <= VOLUMES:
            found.append(f"volume {volume['name']}: {kinds}")
    for container in pod.containers:
        own = {**context, **container.get("securityContext", {})}
        name = container["name"]
        checks = {
            "privileged": not own.get("privileged"),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "capabilities drop": own.get("capabilities", {}).get("drop") == ["ALL"],
            "capabilities add": set(own.get("capabilities", {}).get("add", [])) <= {"NET_BIND_SERVICE"},
            "runAsNonRoot": own.get("runAsNonRoot") is True,
            "runAsUser": own.get("runAsUser") == (None if assigned else USER_ID),
            "seccompProfile": own.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
            "procMount": own.get("procMount", "Default") == "Default",
            "hostPort": not any(port.get("hostPort") for port in container.get("ports", [])),
            "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is True,
            "limits": pod.owner.startswith("TrainingRuntime") or "memory" in container["resources"].get("limits", {}),
        }
        found += [f"{name}: {check}" for check, holds in checks.items() if not holds]
    return found


def unwritable(pod: Pod) -> list[str]:
    """Folders that our images write to and that are neither volumes nor, under a read-only root, anything else.

    The images declare them as volumes, which not every container runtime of Kubernetes makes.
    """
    ours = [c for c in pod.containers if "eoforge/" in c["image"]]
    mounts = {c["name"]: {m["mountPath"] for m in c["volumeMounts"]} for c in ours}
    return [f"{name}: {path}" for name, found in mounts.items() for path in sorted(WRITTEN - found)]


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_pod_is_restricted(name: str) -> None:
    found = list(support.pods(support.scenario(name)))
    assert found
    assert {pod.owner: wrong for pod in found if (wrong := violations(pod, name == "openshift"))} == {}
    assert {pod.owner: missing for pod in found if (missing := unwritable(pod))} == {}


@pytest.mark.parametrize(
    "harm",
    [
        lambda spec: spec.update(hostNetwork=True),
        lambda spec: spec["securityContext"].update(runAsNonRoot=False),
        lambda spec: spec["securityContext"].pop("seccompProfile"),
        lambda spec: spec["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
        lambda spec: spec["containers"][0]["securityContext"].update(capabilities={"drop": []}),
        lambda spec: spec["containers"][0].pop("securityContext"),
        lambda spec: spec["containers"][0]["ports"][0].update(hostPort=8081),
    ],
)
def test_a_weaker_pod_is_seen(harm: Any) -> None:
    pod = copy.deepcopy(support.server_pod(support.scenario("plain"), "retrieval"))
    assert violations(pod) == []
    harm(pod.spec)
    assert violations(pod)


@pytest.mark.parametrize("name", SCENARIOS)
def test_only_the_upload_gets_a_token_of_the_api_server(name: str) -> None:
    for pod in support.pods(support.scenario(name)):
        assert pod.spec.get("automountServiceAccountToken") is False, pod.owner


@pytest.mark.parametrize("name", SCENARIOS)
def test_credentials_come_from_secrets_alone(name: str) -> None:
    found = support.scenario(name)
    for pod in support.pods(found):
        for container in pod.containers:
            for key, value in support.env_of(container).items():
                secret = any(word in key for word in ("SECRET", "PASSWORD", "ACCESS_KEY", "ROOT_USER"))
                path = key.endswith("_FILE") and value is not None and value.startswith("/etc/eoforge/")
                assert not secret or value is None or path, f"{pod.owner}: {key}"
    secrets = [o for o in found if o["kind"] == "Secret"]
    assert bool(secrets) == name.startswith("dev")


@pytest.mark.parametrize("name", ["plain", "minio"])
def test_a_server_gets_of_a_secret_what_it_needs_alone(name: str) -> None:
    """A CA's secret may hold the CA's key, a token's secret the key that signs."""
    pod = support.server_pod(support.scenario(name), "federation")
    given = {v["name"]: [i["key"] for i in v["secret"].get("items", [])] for v in pod.spec["volumes"] if "secret" in v}
    assert given["client-ca"] == ["ca.crt"]
    assert given.get("token", ["token.pem"]) == ["token.pem"]


def test_the_development_store_makes_up_its_credentials() -> None:
    values = support.values_of("dev")
    keys = [
        support.pick(support.objects(support.render(support.UMBRELLA, values)), "Secret")["data"][
            "AWS_SECRET_ACCESS_KEY"
        ]
        for _ in range(2)
    ]
    assert len(keys[0]) >= 40
    assert keys[0] != keys[1]


def test_a_cloud_identity_needs_no_secret() -> None:
    found = support.scenario("gpu-aws")
    for service in support.SERVICES:
        pod = support.server_pod(found, service)
        assert "AWS_SECRET_ACCESS_KEY" not in support.env_of(pod.containers[0])
        account = support.pick(found, "ServiceAccount", pod.spec["serviceAccountName"])
        assert "eks.amazonaws.com/role-arn" in account["metadata"]["annotations"]


def calls_of_the_training_step() -> set[tuple[str, str]]:
    """Calls of ``pipelines/trainjob.py`` to the API server, read from its source, as (resource, verb)."""
    fixed = {"list_namespaced_pod": ("pods", "list"), "read_namespaced_pod_log": ("pods/log", "get")}
    tree = ast.parse((support.ROOT / "pipelines" / "trainjob.py").read_text())
    found = set()
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        methods = [a.attr for a in call.args if isinstance(a, ast.Attribute) and "_namespaced_" in a.attr]
        names = {a.id for a in call.args if isinstance(a, ast.Name)}
        for method in methods:
            resource = "trainjobs" if "PLURAL" in names else "trainingruntimes"
            assert method in fixed or {"PLURAL", "RUNTIMES"} & names, f"{method}: of what?"
            found.add(fixed.get(method, (resource, method.partition("_")[0])))
            if method.startswith("list") and method not in fixed:
                found.add((resource, "watch"))
    return found


def test_the_training_step_may_do_what_it_does_and_no_more() -> None:
    found = support.scenario("minio")
    role = support.pick(found, "Role")
    granted = {(r, v) for rule in role["rules"] for r in rule["resources"] for v in rule["verbs"]}
    assert granted == calls_of_the_training_step()
    binding = support.pick(found, "RoleBinding")
    assert [s["name"] for s in binding["subjects"]] == ["pipeline-runner"]
    profile = support.pick(support.scenario("kubeflow-profile"), "RoleBinding")
    assert profile["metadata"]["namespace"] == "team-a"
    assert profile["subjects"] == [{"kind": "ServiceAccount", "name": "default-editor", "namespace": "team-a"}]


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_granted_cluster_wide(name: str) -> None:
    assert not [o for o in support.scenario(name) if o["kind"] in ("ClusterRole", "ClusterRoleBinding")]
