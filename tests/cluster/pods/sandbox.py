"""Namespaces of one node: its network, mounts and processes end with it, and the machine's stay as they were.

The node is joined to the machine by one pair of virtual interfaces. Everything that the node writes by fixed paths lies
in a folder of the test's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.cluster.control_plane import SERVICE_RANGE, ClusterError

HOST, NODE = "10.199.1.1", "10.199.1.2"
"""Addresses of the machine and of the node on the link between them."""
POD_RANGE, BALANCER_RANGE = "10.199.2.0/24", "10.199.3.0/24"
LINK = "eoforge-node"
FIXED_PATHS = (
    "/run/containerd",
    "/run/netns",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
)
"""Folders that containerd, the kubelet and plugins of the network use."""
CONTROL_GROUPS = Path("/sys/fs/cgroup")
WAIT_FOR_CHILDREN = "while :; do sleep 3600 & wait $!; done"
"""The first process of the node: bash takes the exit codes of containers' supervisors, whose parents are gone."""


class Sandbox:
    """The namespaces, from start to end.

    Args:
        folder: State of the node.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pid = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
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

    def command(self, *arguments: str) -> list[str]:
        """A command line that runs inside."""
        return ["nsenter", f"--target={self._pid}", "--mount", "--net", "--pid", "--", *arguments]

    def run(self, *arguments: str) -> str:
        """Output of a command inside.

        Raises:
            ClusterError: It failed.
        """
        return _run(*self.command(*arguments))

    def _start(self) -> None:
        if Path("/sys/class/net", LINK).exists():
            raise ClusterError(f"there is an interface {LINK}: another node of these tests runs on this machine")
        self._stack.callback(_remove_control_groups)
        mounts = ["mount --make-rshared /"]
        for path in map(Path, FIXED_PATHS):
            if not path.exists():
                path.mkdir(parents=True)
                self._stack.callback(_remove_empty, path)
            own = self.folder / "state" / path.as_posix().strip("/").replace("/", "-")
            own.mkdir(parents=True)
            mounts.append(f"mount --bind {own} {path}")
        script = " && ".join([*mounts, "ip link set lo up", "echo ready"])
        process = subprocess.Popen(
            ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "bash", "-c",
             f"{script} && {WAIT_FOR_CHILDREN}"],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        self._stack.callback(_kill, process)
        if process.stdout is None or process.stdout.readline() != b"ready\n":
            raise ClusterError("the namespaces of the node could not be made")
        self._pid = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        _run("ip", "link", "add", LINK, "type", "veth", "peer", "name", "eth0", "netns", str(self._pid))
        self._stack.callback(subprocess.run, ["ip", "link", "delete", LINK], check=False, capture_output=True)
        _run("ip", "address", "add", f"{HOST}/24", "dev", LINK)
        _run("ip", "link", "set", LINK, "up")
        self.run("ip", "address", "add", f"{NODE}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self.run("ip", "route", "add", "default", "via", HOST)
        for name in ("net.ipv4.ip_forward", "net.bridge.bridge-nf-call-iptables"):
            self.run("sysctl", "--quiet", "--write", f"{name}=1")
        for addresses in (POD_RANGE, SERVICE_RANGE, BALANCER_RANGE):
            _run("ip", "route", "add", addresses, "via", NODE)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout.strip()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends the first process of the node, and with it all the others."""
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _remove_empty(path: Path) -> None:
    with suppress(OSError):
        path.rmdir()


def _remove_control_groups() -> None:
    """Removes what the kubelet made; a group is busy until the last of its processes is gone."""
    deadline = time.monotonic() + 30
    while left := [path for path in CONTROL_GROUPS.rglob("kubepods") if path.is_dir()]:
        for top in left:
            for folder, _, _ in os.walk(top, topdown=False):
                with suppress(OSError):
                    os.rmdir(folder)
        if time.monotonic() > deadline:
            raise ClusterError(f"control groups of the node stay: {left}")
        time.sleep(0.2)


def remove(folder: Path) -> None:
    """Removes the state of a node; its mounts are gone with its namespaces."""
    shutil.rmtree(folder, ignore_errors=True)
