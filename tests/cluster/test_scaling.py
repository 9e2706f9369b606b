"""Autoscaling switched on does not take pods away, and Helm leaves alone what was scaled."""

from __future__ import annotations

import time

import pytest
from helm_python import Chart

from tests.charts import support
from tests.cluster import release
from tests.cluster.kubectl import Object
from tests.cluster.release import RELEASE, TIMEOUT_S, Home

ALONE: Object = {"s3": {"bucket": "lake"}, "auth": {"anonymous": True}}
NAMES = {True: "deployment/eo-retrieval-predictor", False: "deployment/eo-retrieval"}


def upgrade(place: Home, values: Object) -> set[int]:
    """Upgrades and gives every number of pods that was asked for in the next seconds."""
    with place.helm() as helm, Chart.load(support.CHARTS / "retrieval") as chart:
        helm.upgrade(chart, RELEASE, values, namespace=place.name, wait="hookOnly", timeout=TIMEOUT_S)
    seen = set()
    for _ in range(8):
        seen.add(int(place.kubectl.get(NAMES[values["kserve"]["enabled"]])["spec"]["replicas"]))
        time.sleep(0.5)
    return seen


@pytest.mark.parametrize("kserve", [False, True], ids=["plain", "kserve"])
def test_switching_autoscaling_on_keeps_the_pods(kserve: bool, place: Home) -> None:
    values = {**ALONE, "kserve": {"enabled": kserve}}
    fixed = {**values, "replicas": 4, "autoscaling": {"type": "none"}}
    scaled = {**values, "autoscaling": {"type": "hpa", "minReplicas": 2, "maxReplicas": 6}}
    with place.helm() as helm, Chart.load(support.CHARTS / "retrieval") as chart:
        helm.install(chart, RELEASE, fixed, namespace=place.name, wait="hookOnly", timeout=TIMEOUT_S)
    release.wait_ready(place)
    assert upgrade(place, scaled) == {4}
    assert upgrade(place, {**scaled, "podAnnotations": {"again": "true"}}) == {4}
    place.kubectl.run("scale", NAMES[kserve], "--replicas=3")  # as an autoscaler does it
    assert upgrade(place, {**scaled, "podAnnotations": {"again": "yes"}}) == {3}
