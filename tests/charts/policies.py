"""What network policies let through, by the rules of Kubernetes: policies add up, a selected pod denies the rest."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.charts import support
from tests.charts.support import Object, Pod

DNS = 53


@dataclass(frozen=True)
class Place:
    """One end of a connection.

    Attributes:
        labels: Of the pod; None for an address outside the cluster.
        namespace: Labels of its namespace.
    """

    labels: dict[str, str] | None
    namespace: dict[str, str] = field(default_factory=dict)


OUTSIDE = Place(None)


def in_namespace(name: str, **labels: str) -> Place:
    """A pod of another namespace."""
    return Place({key.replace("_", "-"): value for key, value in labels.items()}, {"kubernetes.io/metadata.name": name})


def beside(pod: Pod) -> Place:
    """``pod`` itself, seen from elsewhere."""
    return Place(pod.labels, {"kubernetes.io/metadata.name": support.NAMESPACE})


def _selects(selector: Object, labels: dict[str, str]) -> bool:
    if selector.keys() - {"matchLabels"}:
        raise ValueError(f"this evaluator knows matchLabels alone; got {selector}")
    return selector.get("matchLabels", {}).items() <= labels.items()


def _peer(peer: Object, place: Place) -> bool:
    if place.labels is None or "ipBlock" in peer:
        return "ipBlock" in peer and place.labels is None
    home = {"kubernetes.io/metadata.name": support.NAMESPACE}
    namespace = (
        _selects(peer["namespaceSelector"], place.namespace) if "namespaceSelector" in peer else place.namespace == home
    )
    return namespace and _selects(peer.get("podSelector", {}), place.labels)


def allowed(found: list[Object], pod: Pod, direction: str, other: Place, port: int, protocol: str = "TCP") -> bool:
    """Whether ``pod`` may be reached from (``Ingress``) or reach (``Egress``) ``other`` on ``port``."""
    policies = [
        o["spec"]
        for o in found
        if o["kind"] == "NetworkPolicy"
        and _selects(o["spec"]["podSelector"], pod.labels)
        and direction in o["spec"]["policyTypes"]
    ]
    if not policies:
        return True
    peers = {"Ingress": "from", "Egress": "to"}[direction]
    rules = [rule for policy in policies for rule in policy.get(direction.lower(), [])]
    return any(
        any(p["port"] == port and p["protocol"] == protocol for p in rule.get("ports", []))
        and (not rule.get(peers) or any(_peer(peer, other) for peer in rule[peers]))
        for rule in rules
    )


def needs(pod: Pod) -> list[tuple[str, Place, int, str]]:
    """What a pod is told to reach: names, store, collector, other owners; as (what, where, port, protocol)."""
    dns = in_namespace("kube-system", k8s_app="kube-dns")
    found = [("names", dns, DNS, "UDP"), ("names", dns, DNS, "TCP")]
    env = support.env_of(pod.spec["containers"][0])
    urls = {"store": env.get("AWS_ENDPOINT_URL", "https://aws"), "traces": env.get("EOFORGE_OTLP_ENDPOINT")}
    for what, url in urls.items():
        if url:
            parts = urlsplit(url)
            host = (parts.hostname or "").split(".")
            place = in_namespace(host[1]) if len(host) in (2, 3) else OUTSIDE
            if len(host) == 1 and host[0].endswith("-dev-s3"):
                labels = {"app.kubernetes.io/name": "dev", "app.kubernetes.io/instance": support.RELEASE}
                place = Place(labels, {"kubernetes.io/metadata.name": support.NAMESPACE})
            found.append((what, place, parts.port or {"http": 80, "https": 443}[parts.scheme], "TCP"))
    for upstream in json.loads(env.get("EOFORGE_UPSTREAMS") or "[]"):
        found.append((upstream["owner"], OUTSIDE, int(upstream["address"].rpartition(":")[2]), "TCP"))
    return found


def unreachable(found: list[Object], pod: Pod) -> list[str]:
    """Needs of a pod that its policies do not let through."""
    return [
        f"{what}:{port}/{protocol}"
        for what, place, port, protocol in needs(pod)
        if not allowed(found, pod, "Egress", place, port, protocol)
    ]
