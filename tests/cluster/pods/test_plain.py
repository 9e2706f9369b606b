"""The same release without KServe: Deployments and a StatefulSet in place of InferenceServices."""

from __future__ import annotations

import time

import pytest

from tests.cluster import release
from tests.cluster.pods.callers import hits_of
from tests.cluster.pods.trial import READY_S, WORKLOADS, Trial
from tests.console.console_support import refused


@pytest.fixture(scope="module")
def plain(filled: Trial) -> Trial:
    """The release after KServe was switched off."""
    filled.upgrade(kserve=False)
    return filled


def test_every_service_runs_without_kserve(plain: Trial) -> None:
    assert plain.place.kubectl.items("inferenceservices.serving.kserve.io") == []
    assert all(plain.pods(service) for service in WORKLOADS)
    assert len(plain.search()) == 5
    assert plain.helm_test().count("health: SERVING") == len(WORKLOADS)


def test_an_upgrade_under_load_fails_no_search(plain: Trial) -> None:
    with plain.searching("rolling upgrade of Deployments") as searches:
        plain.replace_pods(kserve=False)
    assert searches.answered > 0
    assert searches.failed == []


def test_the_console_says_that_retrieval_is_away(plain: Trial) -> None:
    before = plain.pods("console")[0]["status"]["containerStatuses"][0]
    with plain.without("retrieval"):
        began = time.monotonic()
        refused(plain.search_page(), 503, "cannot be reached at the moment")
        plain.report.append(f"page without retrieval: after {time.monotonic() - began:.1f} s")
    began = time.monotonic()
    release.wait_until(lambda: len(hits_of(plain.search_page())) == 5, "hits", READY_S)
    plain.report.append(f"hits in the console {time.monotonic() - began:.1f} s after retrieval was ready again")
    after = plain.pods("console")[0]["status"]["containerStatuses"][0]
    assert (after["ready"], after["restartCount"]) == (True, before["restartCount"])
