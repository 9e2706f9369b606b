"""The same release without KServe: Deployments and a StatefulSet in place of InferenceServices."""

from __future__ import annotations

import pytest

from tests.cluster.pods.trial import SERVICES, Trial


@pytest.fixture(scope="module")
def plain(filled: Trial) -> Trial:
    """The release after KServe was switched off."""
    filled.upgrade(kserve=False)
    return filled


def test_every_service_runs_without_kserve(plain: Trial) -> None:
    assert plain.place.kubectl.items("inferenceservices.serving.kserve.io") == []
    assert all(plain.pods(service) for service in SERVICES)
    assert len(plain.search()) == 5
    assert plain.helm_test().count("health: SERVING") == len(SERVICES)


def test_an_upgrade_under_load_fails_no_search(plain: Trial) -> None:
    with plain.searching("rolling upgrade of Deployments") as searches:
        plain.replace_pods(kserve=False)
    assert searches.answered > 0
    assert searches.failed == []
