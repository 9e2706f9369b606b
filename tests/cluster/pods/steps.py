"""Steps of the compiled pipelines as pods, as Kubeflow runs them: command, environment, account and volumes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.charts import support
from tests.cluster.kubectl import Object
from tests.cluster.pods import images
from tests.cluster.release import Home

COMPILED = support.ROOT / "pipelines" / "compiled"
OUTPUTS = "/minio"
"""Folder of Kubeflow's launcher for artifacts of ``minio://`` addresses; here a volume of all steps."""
ACCOUNT = "pipeline-runner"
STEP_S = 600
USER = 10001
RESOURCES: Object = {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "4Gi"}}


def pod(name: str, image: str, command: list[str], env: list[Object] | None = None, **spec: Any) -> Object:
    """A pod under the standard "restricted" that runs one command, with volumes at /tmp and for caches."""
    secure = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    container: Object = {"name": "main", "image": image, "imagePullPolicy": "Never", "command": command}
    container |= {"env": env or [], "resources": RESOURCES, "securityContext": secure}
    mounts = {"tmp": "/tmp", "cache": "/var/cache/eoforge"}  # of the pod
    container["volumeMounts"] = [{"name": key, "mountPath": path} for key, path in mounts.items()]
    volumes: list[Object] = [{"name": key, "emptyDir": {}} for key in mounts]
    user = {"runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER}
    found: Object = {"containers": [container], "volumes": volumes, "restartPolicy": "Never"}
    found |= {"securityContext": user | {"seccompProfile": {"type": "RuntimeDefault"}}, "enableServiceLinks": False}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": found | spec}


def run(place: Home, found: Object) -> str:
    """Log of a pod that runs to its end.

    Raises:
        AssertionError: It failed.
    """
    name = found["metadata"]["name"]
    place.kubectl.apply(found)
    arguments = ("wait", f"pod/{name}", "--for=jsonpath={.status.containerStatuses[0].state.terminated}")
    place.kubectl.run(*arguments, f"--timeout={STEP_S}s")
    log = place.kubectl.run("logs", name)
    code = place.kubectl.run(
        "get", f"pod/{name}", "--output=jsonpath={.status.containerStatuses[0].state.terminated.exitCode}"
    )
    place.kubectl.run("delete", f"pod/{name}", "--grace-period=1")
    assert code == "0", f"{name} ended with {code}:\n{log[-3000:]}"
    return log


@dataclass(frozen=True)
class Steps:
    """Steps and commands in the image of the pipelines.

    Attributes:
        place: Namespace.
        folder: Folder of this machine that is the steps' volume.
    """

    place: Home
    folder: Path

    def prepare(self) -> None:
        """Makes the volume that the steps share."""
        self.folder.mkdir()
        self.folder.chmod(0o777)  # the user of the image does not exist on this machine
        claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
        volume = {"accessModes": ["ReadWriteMany"], "capacity": {"storage": "1Gi"}}
        volume |= {"hostPath": {"path": str(self.folder)}, "claimRef": {"namespace": self.place.name, "name": "steps"}}
        self.place.kubectl.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": f"{self.place.name}-steps"},
                "spec": volume,
            },
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": "steps"},
                "spec": claim | {"storageClassName": "", "volumeName": f"{self.place.name}-steps"},
            },
        )

    def eoforge(self, *arguments: str) -> Any:
        """Last line of output of ``eoforge --json``, parsed."""
        step = platform("ingest", "plan-ingest")
        log = self._run("command", ["eoforge", *arguments, "--json"], step)
        return json.loads([line for line in log.splitlines() if line.startswith("{")][-1])

    def step(self, pipeline: str, name: str, **parameters: object) -> dict[str, Any]:
        """Output parameters of one step of a compiled pipeline, started with the command of Kubeflow.

        Parameters that are not given have the default of the pipeline, as in a run.
        """
        spec = next(yaml.safe_load_all((COMPILED / f"{pipeline}.yaml").read_text()))
        container = spec["deploymentSpec"]["executors"][f"exec-{name}"]["container"]
        inputs, outputs = (
            spec["components"][f"comp-{name}"].get(f"{end}Definitions", {}) for end in ("input", "output")
        )
        known = spec["root"]["inputDefinitions"]["parameters"]
        defaults = {key: known[key].get("defaultValue") for key in known.keys() & inputs["parameters"].keys()}
        values = {key: value for key, value in defaults.items() if value is not None} | parameters
        home = f"{OUTPUTS}/{name}"
        artifacts = {
            key: {"artifacts": [{"name": key, "uri": f"minio://{name}/{key}", "type": found["artifactType"]}]}
            for key, found in outputs.get("artifacts", {}).items()
        }
        request = {
            "inputs": {"parameterValues": values},
            "outputs": {
                "parameters": {key: {"outputFile": f"{home}/{key}"} for key in outputs.get("parameters", {})},
                "artifacts": artifacts,
                "outputFile": f"{home}/executor_output.json",
            },
        }
        command = [*container["command"], *[p.replace("{{$}}", json.dumps(request)) for p in container["args"]]]
        self._run(name, command, platform(pipeline, name))
        written = self.folder / name / "executor_output.json"
        answer = json.loads(written.read_text()) if written.exists() else {}
        found: dict[str, Any] = answer.get("parameterValues", {})
        return found

    def _run(self, name: str, command: list[str], settings: Object) -> str:
        made = pod(name, images.SERVED["pipelines-python"], command, environment(settings), serviceAccountName=ACCOUNT)
        made["spec"]["volumes"].append({"name": "steps", "persistentVolumeClaim": {"claimName": "steps"}})
        made["spec"]["containers"][0]["volumeMounts"].append({"name": "steps", "mountPath": OUTPUTS})
        return run(self.place, made)


def platform(pipeline: str, name: str) -> Object:
    """What a compiled pipeline asks of Kubernetes for one of its steps."""
    _, settings = yaml.safe_load_all((COMPILED / f"{pipeline}.yaml").read_text())
    found: Object = settings["platforms"]["kubernetes"]["deploymentSpec"]["executors"][f"exec-{name}"]
    return found


def environment(settings: Object) -> list[Object]:
    """Variables of a step, from secrets, config maps and fields, as Kubeflow sets them."""
    found: list[Object] = []
    for kind, reference, name, key in (
        ("secretAsEnv", "secretKeyRef", "secretName", "secretKey"),
        ("configMapAsEnv", "configMapKeyRef", "configMapName", "configMapKey"),
    ):
        for source in settings.get(kind, []):
            for pair in source["keyToEnv"]:
                chosen = {"name": source[name], "key": pair[key], "optional": source.get("optional", False)}
                found.append({"name": pair["envVar"], "valueFrom": {reference: chosen}})
    for field in settings.get("fieldPathAsEnv", []):
        found.append({"name": field["name"], "valueFrom": {"fieldRef": {"fieldPath": field["fieldPath"]}}})
    return found
