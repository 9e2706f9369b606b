"""Interface to podman for the trials: start, probes, inspection and removal of pods."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import grpc
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from eoforge.errors import EoforgeError
from scripts.podman.lift_pods import Lifted

NETWORK = "podman"
NOT_HERE = 3
"""Exit code if a trial cannot run on this machine."""
READY_S = 240.0


@dataclass
class Podman:
    """podman with the settings of this machine."""

    env: dict[str, str]

    def __call__(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Output of one podman command.

        Raises:
            EoforgeError: The command failed, and ``check`` is set.
        """
        done = subprocess.run(
            ["podman", *arguments], env=self.env, input=stdin, capture_output=True, text=True, check=False
        )
        if check and done.returncode != 0:
            raise EoforgeError(f"podman {' '.join(arguments)} failed: {done.stderr.strip()[-2000:]}")
        return done.stdout.strip()

    def has_image(self, name: str) -> bool:
        """Whether an image exists."""
        return subprocess.run(["podman", "image", "exists", name], env=self.env, check=False).returncode == 0

    def subnet_prefix(self) -> str:
        """First two numbers of the addresses of the bridge network."""
        found = json.loads(self("network", "inspect", NETWORK))[0]["subnets"][0]["subnet"]
        return ".".join(str(found).split(".")[:2])


def play(podman: Podman, pod: Lifted, address: str) -> float:
    """Starts one pod; returns the time of the start."""
    started = time.monotonic()
    podman("play", "kube", "--network", NETWORK, "--ip", address, "-", stdin=yaml.safe_dump(pod.manifest))
    return started


def wait_ready(podman: Podman, pod: Lifted, address: str) -> None:
    """Waits until the probe of the container succeeds, as the kubelet does.

    Raises:
        EoforgeError: The probe did not succeed in time, or the container ended.
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
    """End of a container's log, both streams."""
    done = subprocess.run(
        ["podman", "logs", "--tail", "40", name], env=podman.env, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def cli(environment: dict[str, str], *arguments: str) -> Any:
    """Output of ``eoforge --json`` on this machine, outside the pods.

    Raises:
        EoforgeError: The command failed.
    """
    command = [sys.executable, "-m", "eoforge.cli", *arguments, "--json"]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EoforgeError(f"eoforge {' '.join(arguments)} failed: {done.stderr[-2000:]}")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("{", "["))]
    return lines[-1] if len(lines) == 1 else lines


def python(environment: dict[str, str], code: str) -> str:
    """Last line of output of Python code on this machine, outside the pods.

    Raises:
        EoforgeError: The code failed.
    """
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise EoforgeError(f"python failed: {done.stderr[-2000:]}")
    return done.stdout.strip().splitlines()[-1]


def run_to_end(podman: Podman, pod: Lifted, address: str) -> str:
    """Output of a ``helm test`` pod.

    Raises:
        EoforgeError: The pod failed.
    """
    play(podman, pod, address)
    name = f"{pod.name}-{pod.container['name']}"
    code = podman("wait", name)
    output = logs(podman, name)
    if code != "0":
        raise EoforgeError(f"{pod.name} failed with {code}:\n{output}")
    return output


def inspect_container(podman: Podman, pod: Lifted) -> dict[str, Any]:
    """Properties of a running container, checked against the security context of the chart.

    Raises:
        EoforgeError: The root file system is writable, the user is not 10001, there is a compiler, or no bill of
            materials.
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
    if compiler := podman("exec", name, "sh", "-c", "command -v cc gcc || true"):
        raise EoforgeError(f"{name} holds a compiler: {compiler}")
    count = "import json; print(len(json.load(open('/usr/share/doc/eoforge/sbom.cdx.json'))['components']))"
    packages = int(podman("exec", name, "python", "-c", count))
    memory = podman("exec", name, "sh", "-c", "grep VmRSS /proc/1/status").split()[1]
    return {"user": int(user), "read_only": True, "packages": packages, "rss_mib": round(int(memory) / 1024)}


def clean(podman: Podman) -> None:
    """Removes the pods, volumes and secrets of the trials, by name."""
    for name in podman("pod", "ls", "--format", "{{.Name}}").split():
        if name.startswith("eo-"):
            podman("pod", "rm", "--force", "--time", "1", name, check=False)
    for name in podman("volume", "ls", "--format", "{{.Name}}").split():
        if name.startswith(("eo-", "eoforge-")):
            podman("volume", "rm", "--force", name, check=False)
    for name in podman("secret", "ls", "--format", "{{.Name}}").split():
        if name.startswith("eoforge-"):
            podman("secret", "rm", name, check=False)
