"""Whether this machine can run a node.

python -m tests.cluster.pods.machine               # exits with 0, or says why not and exits with 3
python -m tests.cluster.pods.machine --packages    # prints the Debian packages that are missing
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

PROGRAMS = {
    "containerd": "containerd",
    "runc": "runc",
    "podman": "podman",
    "debootstrap": "debootstrap",
    "iptables": "iptables",
    "ipset": "ipset",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
}
"""Program -> its Debian package."""
GIGABYTES = 18
"""Free space once podman has the images: they take 12 GB again in containerd, and 6 more during an import."""
FOLDER = Path("/tmp")  # a folder of a random name is made in it
"""Where the node's state lies while it runs."""


def packages() -> list[str]:
    """Debian packages whose programs are missing."""
    return [package for program, package in PROGRAMS.items() if shutil.which(program) is None]


def missing() -> str:
    """Why no node can run here; empty if one can."""
    if os.geteuid() != 0:
        return "root is needed, for the namespaces and control groups of a node"
    if wanted := packages():
        return f"programs are missing: apt-get install {' '.join(wanted)}"
    if any(Path("/sys/fs/cgroup").rglob("kubepods")):
        return "a kubelet runs on this machine, and its control groups have the names of ours"
    free = shutil.disk_usage(FOLDER).free / 1e9
    return "" if free >= GIGABYTES else f"{GIGABYTES} GB of free space are needed in {FOLDER}; there are {free:.0f}"


def main(arguments: Sequence[str]) -> int:
    """Command line; returns the exit code."""
    if "--packages" in arguments:
        print(" ".join(packages()))
        return 0
    if reason := missing():
        print(f"NOT RUN: {reason}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
