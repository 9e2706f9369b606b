"""Extraction of pods from rendered charts for podman, which supports neither InferenceService nor StatefulSet.

    python -m scripts.podman.lift_pods VALUES.yaml          # prints the pods of charts/eoforge as a YAML stream

Image, command, environment, probes, security context and volumes of a pod are unchanged. Four parts change for podman
4.3: volumes get names that are unique on the machine, secrets get ``optional: false`` (podman crashes without), host
aliases replace cluster DNS, and the ports are removed, because podman would publish them on every address of the host.
"""

from __future__ import annotations

import copy
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eoforge.errors import NotFound

CHART = Path(__file__).resolve().parents[2] / "charts" / "eoforge"
TEMPLATED = ("Deployment", "StatefulSet", "Job")
Object = dict[str, Any]


@dataclass(frozen=True)
class Lifted:
    """Pod for ``podman play kube``.

    Attributes:
        name: Name of the pod.
        service: Label ``app.kubernetes.io/name``.
        component: ``server``, ``test``, ``doctor``, or empty for the development store.
        manifest: The Pod.
    """

    name: str
    service: str
    component: str
    manifest: Object

    @property
    def container(self) -> Object:
        """Main container."""
        return dict(self.manifest["spec"]["containers"][0])


def render(values: Object, release: str, namespace: str) -> list[Object]:
    """Objects of the umbrella chart, rendered by the Helm engine."""
    from helm_python import Chart

    with Chart.load(os.fspath(CHART)) as chart:
        files = chart.render(values, name=release, namespace=namespace)
    texts = [text for name, text in sorted(files.items()) if name.endswith(".yaml")]
    return [o for text in texts for o in yaml.safe_load_all(text) if o]


def lift(objects: list[Object], aliases: dict[str, str]) -> list[Lifted]:
    """Pods of all workloads.

    Args:
        objects: Rendered objects.
        aliases: Mapping host name -> address, in place of cluster DNS.

    Raises:
        NotFound: There are no pods; a trial without pods would report success.
    """
    lifted = []
    for o in objects:
        template = _template(o)
        if template is not None:
            lifted.append(_pod(o["metadata"]["name"], template, aliases))
    if not lifted:
        raise NotFound("no pods in the rendered chart; are all services disabled?")
    return lifted


def _template(o: Object) -> Object | None:
    """Labels and spec of the pod of an object, or None."""
    if o["kind"] == "Pod":
        return {"labels": o["metadata"]["labels"], "spec": o["spec"]}
    if o["kind"] in TEMPLATED:
        template = o["spec"]["template"]
        return {"labels": template["metadata"]["labels"], "spec": template["spec"]}
    if o["kind"] != "InferenceService":
        return None
    predictor = o["spec"]["predictor"]
    own = ["serviceAccountName", "securityContext", "terminationGracePeriodSeconds"]
    own += ["initContainers", "containers", "volumes"]
    return {"labels": predictor["labels"], "spec": {key: predictor[key] for key in own if key in predictor}}


def _pod(name: str, template: Object, aliases: dict[str, str]) -> Lifted:
    spec, labels = copy.deepcopy(template["spec"]), template["labels"]
    renamed = {volume["name"]: f"{name}-{volume['name']}" for volume in spec.get("volumes", [])}
    for volume in spec.get("volumes", []):
        volume["name"] = renamed[volume["name"]]
        if "secret" in volume:
            volume["secret"]["optional"] = False
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        container.pop("ports", None)
        for mount in container.get("volumeMounts", []):
            mount["name"] = renamed[mount["name"]]
    spec["restartPolicy"] = "Never"  # a container that ends is a finding; a restart would hide it
    spec["hostAliases"] = [{"ip": ip, "hostnames": [host]} for host, ip in sorted(aliases.items())]
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}
    component = labels.get("app.kubernetes.io/component", "")
    return Lifted(name, labels["app.kubernetes.io/name"], component, manifest)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    paths = sys.argv[1:] if argv is None else argv
    if len(paths) != 1:
        print("usage: python -m scripts.podman.lift_pods VALUES.yaml", file=sys.stderr)
        return 2
    found = lift(render(yaml.safe_load(Path(paths[0]).read_text()), "eo", "default"), {})
    print(yaml.safe_dump_all([pod.manifest for pod in found], sort_keys=False), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
