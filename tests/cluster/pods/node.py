"""One real node: containerd, kubelet, kube-proxy, DNS, and kube-router, which enforces network policies."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import binaries
from tests.cluster.control_plane import ControlPlane, wait_for, write_kubeconfig
from tests.cluster.pods import images
from tests.cluster.pods.sandbox import BALANCER_RANGE, NODE, POD_RANGE, Sandbox

NAME = "node-a"
DNS = "10.96.0.10"
SOCKET = "/run/containerd/containerd.sock"
READY_S = 120
CONTAINERD = f"""\
version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.btrfs"]
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{images.PAUSE}"
# Where lower scores may not be set, as in some sandboxes, runc fails otherwise.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "FOLDER/cni"
"""
NETWORK: dict[str, Any] = {
    "cniVersion": "0.4.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "pods0",
            "isGateway": True,
            "hairpinMode": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": POD_RANGE}]], "routes": [{"dst": "0.0.0.0/0"}]},
        }
    ],
}
KUBELET: dict[str, Any] = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "address": NODE,
    "cgroupDriver": "cgroupfs",
    "clusterDNS": [DNS],
    "clusterDomain": "cluster.local",
    "containerRuntimeEndpoint": f"unix://{SOCKET}",
    "enforceNodeAllocatable": [],
    "evictionHard": {"imagefs.available": "0%", "memory.available": "1Mi", "nodefs.available": "0%"},
    "failCgroupV1": False,
    "failSwapOn": False,
    "imageGCHighThresholdPercent": 100,
    "localStorageCapacityIsolation": False,
    "oomScoreAdj": 0,
}
PROXY: dict[str, Any] = {
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
    "kind": "KubeProxyConfiguration",
    "mode": "iptables",
    "clusterCIDR": POD_RANGE,
    "hostnameOverride": NAME,
    # The tables of connections belong to the machine: their sizes stay.
    "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    "oomScoreAdj": 0,
}


@dataclass(frozen=True)
class Node:
    """A node that is ready for pods.

    Attributes:
        cluster: Its control plane.
        sandbox: Where its processes run.
        seconds: Seconds of each part of its start.
    """

    cluster: ControlPlane
    sandbox: Sandbox
    seconds: dict[str, float]

    def kill(self, container: str, signal: str = "KILL") -> None:
        """Sends a signal to the first process of a container, which is named as in the status of its pod."""
        self.sandbox.run("ctr", "-n", "k8s.io", "task", "kill", "--signal", signal, container.rpartition("/")[2])


def start(cluster: ControlPlane, sandbox: Sandbox) -> Node:
    """Starts everything and waits until the node and its DNS are ready.

    Raises:
        ClusterError: A part of it did not start.
    """
    seconds: dict[str, float] = {}
    began = time.monotonic()
    process = cluster.launch("containerd", sandbox.command("containerd", f"--config={_containerd(cluster.folder)}"))
    wait_for((cluster.folder / "state" / "run-containerd" / "containerd.sock").exists, process)
    images.load(sandbox)
    seconds["images into containerd"] = time.monotonic() - began
    began = time.monotonic()
    kubelet = _program(cluster, "kubelet", f"system:node:{NAME}", "system:nodes", KUBELET | _kubelet_files(cluster))
    cluster.launch("kubelet", sandbox.command(*kubelet, f"--hostname-override={NAME}", f"--node-ip={NODE}"))
    cluster.launch("kube-proxy", sandbox.command(*_program(cluster, "kube-proxy", "system:kube-proxy", "", PROXY)))
    cluster.kubectl.run("wait", "--for=create", f"node/{NAME}", f"--timeout={READY_S}s")
    # It ends where its node is not there.
    router = _kubeconfig(cluster, "kube-router", "system:masters")
    cluster.launch(
        "kube-router",
        sandbox.command(
            os.fspath(binaries.binary("kube-router")), f"--kubeconfig={router}", f"--hostname-override={NAME}",
            "--run-firewall=true", "--run-router=false", "--run-service-proxy=false",
            f"--service-external-ip-range={BALANCER_RANGE}", "--metrics-port=0",
        ),
    )  # fmt: skip
    cluster.kubectl.run("wait", "--for=condition=Ready", f"node/{NAME}", f"--timeout={READY_S}s")
    seconds["node ready"] = time.monotonic() - began
    cluster.kubectl.apply(*yaml.safe_load_all(Path(__file__).with_name("coredns.yaml").read_text()))
    cluster.kubectl.run("rollout", "status", "deployment/coredns", "--namespace=kube-system", f"--timeout={READY_S}s")
    seconds["names answered"] = time.monotonic() - began
    return Node(cluster, sandbox, seconds)


def _containerd(folder: Path) -> Path:
    (folder / "cni").mkdir()
    (folder / "cni" / "pods.conflist").write_text(json.dumps(NETWORK))
    path = folder / "containerd.toml"
    path.write_text(CONTAINERD.replace("FOLDER", os.fspath(folder)))
    return path


def _kubelet_files(cluster: ControlPlane) -> dict[str, Any]:
    assert cluster.authority is not None
    server = cluster.authority.issue("kubelet-server")
    names = cluster.folder / "resolv.conf"
    names.write_text("")  # no server above: nothing outside the cluster is asked
    return {
        "authentication": {"x509": {"clientCAFile": os.fspath(cluster.authority.certificate)}},
        "resolvConf": os.fspath(names),
        "tlsCertFile": os.fspath(server.certificate),
        "tlsPrivateKeyFile": os.fspath(server.key),
    }


def _kubeconfig(cluster: ControlPlane, user: str, group: str) -> Path:
    assert cluster.authority is not None
    path = cluster.folder / f"{user.replace(':', '-')}.kubeconfig"
    pair = cluster.authority.issue(user, group, name=path.stem)
    write_kubeconfig(path, cluster.address, cluster.authority.certificate, pair)
    return path


def _program(cluster: ControlPlane, name: str, user: str, group: str, settings: dict[str, Any]) -> list[str]:
    """Command line of a program with a kubeconfig and a file of settings."""
    kubeconfig = _kubeconfig(cluster, user, group)
    path = cluster.folder / f"{name}.yaml"
    options = []
    if name == "kube-proxy":
        settings = settings | {"clientConnection": {"kubeconfig": os.fspath(kubeconfig)}}
    else:
        options = [f"--kubeconfig={kubeconfig}"]
    path.write_text(yaml.safe_dump(settings))
    return [os.fspath(binaries.binary(name)), f"--config={path}", *options]
