"""Rights of every service account that the charts bind or make: what the code calls, and nothing more."""

from __future__ import annotations

import json

import pytest
from helm_python import Chart

from tests.charts import support
from tests.charts.test_security import calls_of_the_training_step
from tests.cluster import release
from tests.cluster.release import RELEASE, Home

ITSELF = {"authorization.k8s.io", "authentication.k8s.io"}
"""Groups whose reviews every account may ask about itself."""


def may(place: Home, account: str, namespace: str) -> set[tuple[str, str]]:
    """Resources and verbs that a service account has in a namespace, as the API server tells it."""
    user = f"--as=system:serviceaccount:{namespace}:{account}"
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview"}
    given = release.as_text({**review, "spec": {"namespace": namespace}})
    answer = json.loads(
        place.cluster.kubectl.run("create", "--validate=false", "--output=json", "-f-", user, given=given)
    )
    rules = [rule for rule in answer["status"]["resourceRules"] if not ITSELF & set(rule["apiGroups"])]
    assert not answer["status"]["incomplete"]
    return {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}


@pytest.mark.parametrize("scenario", ["minio", "kubeflow-profile", "gpu-aws"])
def test_accounts_may_do_what_the_code_calls_and_no_more(scenario: str, place: Home) -> None:
    values = release.with_kubeflow_in(support.values_of(scenario), place.kubeflow)
    values["kubeflow"] = {**values.get("kubeflow", {}), "pipelines": {"delivery": "none"}}
    objects = release.rendered(support.UMBRELLA, values, place)
    with place.helm() as helm, Chart.load(support.UMBRELLA) as chart:
        helm.install(chart, RELEASE, values, namespace=place.name, wait="hookOnly", timeout=release.TIMEOUT_S)
    bound = {(s["namespace"], s["name"]) for o in objects if o["kind"] == "RoleBinding" for s in o["subjects"]}
    made = {(o["metadata"]["namespace"], o["metadata"]["name"]) for o in objects if o["kind"] == "ServiceAccount"}
    assert bound
    for namespace, name in sorted(bound):
        assert may(place, name, namespace) == calls_of_the_training_step(), name
        (other,) = {place.name, place.kubeflow} - {namespace}
        user = f"--as=system:serviceaccount:{namespace}:{name}"
        code, _ = place.kubectl.try_run("auth", "can-i", "create", "trainjobs", f"--namespace={other}", user)
        assert code == 1, f"{name} of {namespace} may train in {other}"
    for namespace, name in sorted(made - bound):
        assert may(place, name, namespace) == set(), f"{name} needs no rights"
