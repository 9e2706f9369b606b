"""A Kubernetes control plane on loopback: etcd, API server, controller manager, scheduler, and kwok for the nodes.

Started for one test run in a folder of its own and ended with it. No container runs: kwok moves pods through their
phases as ``stages.yaml`` says. With ``USE_EXISTING_CLUSTER=true`` nothing is started and the cluster of ``KUBECONFIG``
is used.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml

from eoforge.storage.seaweed import free_ports
from tests.cluster import binaries
from tests.cluster.certificates import Authority, Pair
from tests.cluster.kubectl import Kubectl

SERVICE_RANGE = "10.96.0.0/16"
LOOPBACK = "127.0.0.1"
NODES = ("node-a", "node-b")
READY_S = 60.0
LOGS = Path("pod-logs")
"""File below the cluster's folder with the log that every fake container has."""
LOG_LINES = ("first line", "last line of the log")
STAGES = Path(__file__).with_name("stages.yaml")
SIZE = {"cpu": "64", "memory": "512Gi", "pods": "250", "nvidia.com/gpu": "16"}
NODE = {"apiVersion": "v1", "kind": "Node", "status": {"allocatable": SIZE, "capacity": SIZE}}
NODE_LABELS = {"nvidia.com/gpu.present": "true", "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}


class ClusterError(Exception):
    """A process of the cluster did not start, or ended."""


@dataclass
class Process:
    """A program of the cluster."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def tail(self) -> str:
        """Last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


@dataclass
class ControlPlane:
    """The cluster, from start to end.

    Attributes:
        folder: State, certificates and logs.
        host: Address of the API server.
        addresses: Further addresses of servers, for their certificates.
        fake_nodes: Whether kwok plays two nodes.
        kubeconfig: Of the administrator.
        authority: Signs every certificate; None for an existing cluster.
    """

    folder: Path
    host: str = LOOPBACK
    addresses: tuple[str, ...] = ()
    fake_nodes: bool = True
    kubeconfig: Path = field(init=False)
    authority: Authority | None = field(init=False, default=None)
    address: str = field(init=False, default="")
    _stack: ExitStack = field(init=False, default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.kubeconfig = self.folder / "admin.kubeconfig"

    @property
    def kubectl(self) -> Kubectl:
        """The administrator's command line."""
        return Kubectl(self.kubeconfig)

    def __enter__(self) -> Self:
        if binaries.existing():
            self.kubeconfig = Path(os.environ.get("KUBECONFIG") or os.path.expanduser("~/.kube/config"))
            return self
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def start(self, name: str, program: str, *arguments: str, environment: dict[str, str] | None = None) -> Process:
        """Starts a program of ``binaries`` that ends with the cluster, in reverse order."""
        return self.launch(name, [os.fspath(binaries.binary(program)), *arguments], environment)

    def launch(self, name: str, command: list[str], environment: dict[str, str] | None = None) -> Process:
        """Starts any program that ends with the cluster, in reverse order."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as out:
            popen = subprocess.Popen(
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=os.environ | (environment or {}),
                start_new_session=True,
            )
        self._stack.callback(_end, popen)
        return Process(name, popen, log)

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.authority = Authority(self.folder, (LOOPBACK, self.host, *self.addresses))
        self.address = f"https://{self.host}:{free_ports(1)[0]}"
        etcd = f"http://127.0.0.1:{free_ports(1)[0]}"
        peer = f"http://127.0.0.1:{free_ports(1)[0]}"
        process = self.start(
            "etcd", "etcd", f"--data-dir={self.folder / 'etcd'}", "--unsafe-no-fsync", "--log-level=warn",
            f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}", f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}",
        )  # fmt: skip
        wait(f"{etcd}/health", process)
        server = self.authority.issue("kube-apiserver")
        account = self.authority.issue("service-accounts")
        kubelet = self.authority.issue("kube-apiserver", "system:masters", name="kubelet-client")
        admin = self.authority.issue("admin", "system:masters")
        process = self.start(
            "kube-apiserver", "kube-apiserver", f"--etcd-servers={etcd}",
            f"--secure-port={self.address.rpartition(':')[2]}", f"--bind-address={self.host}",
            f"--advertise-address={self.host}",
            f"--endpoint-reconciler-type={'none' if self.host == LOOPBACK else 'lease'}",  # loopback is no endpoint
            f"--tls-cert-file={server.certificate}", f"--tls-private-key-file={server.key}",
            f"--client-ca-file={self.authority.certificate}",
            f"--kubelet-client-certificate={kubelet.certificate}", f"--kubelet-client-key={kubelet.key}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-account-key-file={account.certificate}", f"--service-account-signing-key-file={account.key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-cluster-ip-range={SERVICE_RANGE}", "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction,PodSecurity,ResourceQuota,LimitRanger,ServiceAccount",
        )  # fmt: skip
        write_kubeconfig(self.kubeconfig, self.address, self.authority.certificate, admin)
        wait_for(lambda: self.kubectl.try_run("get", "--raw=/readyz")[0] == 0, process)
        self.start(
            "kube-controller-manager", "kube-controller-manager", f"--kubeconfig={self.kubeconfig}",
            f"--service-account-private-key-file={account.key}", f"--root-ca-file={self.authority.certificate}",
            "--leader-elect=false", "--bind-address=127.0.0.1", f"--secure-port={free_ports(1)[0]}",
            "--authentication-skip-lookup=true",
        )  # fmt: skip
        self.start(
            "kube-scheduler", "kube-scheduler", f"--kubeconfig={self.kubeconfig}", "--leader-elect=false",
            "--bind-address=127.0.0.1", f"--secure-port={free_ports(1)[0]}", "--authentication-skip-lookup=true",
        )  # fmt: skip
        if self.fake_nodes:
            self._start_nodes()

    def _start_nodes(self) -> None:
        assert self.authority is not None
        kubelet = self.authority.issue("kwok")
        (self.folder / LOGS).write_text("".join(f"2026-01-01T00:00:00Z stdout F {line}\n" for line in LOG_LINES))
        stages = [*sorted((binaries.folder("kwok") / "stages").glob("*.yaml")), STAGES]
        text = "\n---\n".join(path.read_text() for path in stages).replace("$LOGS", os.fspath(self.folder / LOGS))
        (self.folder / "kwok.yaml").write_text(text)
        for name in NODES:
            labels = {**NODE_LABELS, "kubernetes.io/hostname": name}
            self.kubectl.apply({**NODE, "metadata": {"name": name, "labels": labels}})
        port = free_ports(1)[0]
        self.start(
            "kwok", "kwok", f"--kubeconfig={self.kubeconfig}", "--manage-all-nodes", "--node-ip=127.0.0.1",
            f"--node-port={port}", f"--server-address=127.0.0.1:{port}", "--node-lease-duration-seconds=40",
            f"--config={self.folder / 'kwok.yaml'}",
            f"--tls-cert-file={kubelet.certificate}", f"--tls-private-key-file={kubelet.key}",
        )  # fmt: skip
        self.kubectl.run("wait", "--for=condition=Ready", "node", "--all", f"--timeout={READY_S:.0f}s")


def write_kubeconfig(path: Path, address: str, authority: Path, pair: Pair) -> None:
    """A kubeconfig with one user who shows a certificate."""
    cluster = {"server": address, "certificate-authority": os.fspath(authority)}
    user = {"client-certificate": os.fspath(pair.certificate), "client-key": os.fspath(pair.key)}
    found = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
        "current-context": "test",
    }
    path.write_text(yaml.safe_dump(found))


def wait(url: str, process: Process) -> None:
    """Waits until an address answers with success."""

    def answers() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    wait_for(answers, process)


def wait_for(answers: Callable[[], bool], process: Process) -> None:
    """Waits until a process answers.

    Raises:
        ClusterError: It ended, or took longer than a minute; with the end of its log.
    """
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if answers():
            return
        if process.popen.poll() is not None:
            raise ClusterError(f"{process.name} ended with {process.popen.returncode}:\n{process.tail()}")
        time.sleep(0.2)
    raise ClusterError(f"{process.name} did not answer within {READY_S:.0f} s:\n{process.tail()}")


def _end(popen: subprocess.Popen[bytes]) -> None:
    if popen.poll() is None:
        popen.send_signal(signal.SIGTERM)
        try:
            popen.wait(timeout=10)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()
