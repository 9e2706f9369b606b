"""Values are refused by name: contradictions, unknown keys, and nonsense that an API server would refuse half-way.

All contradictions and unknown keys stand in one message, each key with the nearest that there is.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import yaml
from helm_python import HelmError

from scripts import chart_schema
from tests.charts import schemas, support
from tests.charts.support import CHARTS, SCENARIOS, SERVICES, UMBRELLA

MINIMAL: dict[str, Any] = {"s3": {"bucket": "lake"}, "auth": {"anonymous": True}, "tls": {"existingSecret": "tls"}}
TOKENS = {"existingSecret": "keys", "audience": "a", "issuer": "i"}
GPU = {"requests": {"cpu": "1"}, "limits": {"memory": "6Gi", "nvidia.com/gpu": "1"}}

NONSENSE = yaml.safe_load((support.ROOT / "tests" / "charts" / "nonsense.yaml").read_text())
CASES = [
    (chart, path, value) for chart, paths in NONSENSE.items() for path, values in paths.items() for value in values
]
NORTH = {"owner": "north", "address": "north.example:443"}
SERVICE: dict[str, Any] = {"s3": {"bucket": "lake"}, "auth": {"anonymous": True}, "tls": {"existingSecret": "tls"}}
BASE: dict[str, dict[str, Any]] = {
    "retrieval": SERVICE | {"route": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["a.example"]}},
    "federation": SERVICE,
    "eoforge": support.values_of("dev-minio"),
    "eoforge-dev": {},
}


def refusal(chart: str, values: dict[str, Any], namespace: str = support.NAMESPACE) -> str:
    """What the chart says to values that it does not take."""
    with pytest.raises(HelmError) as refused:
        support.render(CHARTS / chart, values, namespace=namespace)
    return str(refused.value)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"auth": {"anonymous": True, "tokens": TOKENS}}, "auth.anonymous=true lets anyone call"),
        ({"tls": {"mode": "pod", "existingSecret": "t", "clientCaSecret": "ca"}}, "auth.anonymous=true lets anyone"),
        ({"settings": {"device": "cuda"}}, "settings.device=cuda needs a GPU in resources.limits"),
        ({"settings": {"device": "cuda:0"}}, "settings.device=cuda:0 needs a GPU"),
        ({"resources": GPU}, "a GPU that nothing uses: set settings.device=cuda"),
        ({"resources": {"limits": {"nvidia.com/mig-1g.10gb": 1}}}, "a GPU that nothing uses"),
        ({"resources": {"requests": {"memory": "3Gi"}, "limits": {"memory": "2Gi"}}}, "3Gi memory is above the limit"),
        ({"resources": {"limits": {"cpu": "500m"}}}, "the request of 1 cpu is above the limit of 500m"),
        ({"kserve": {"cpuLimit": "500m"}}, "the request of 1 cpu is above the limit of 500m"),
        ({"tests": {"resources": {"requests": {"memory": "1Gi"}}}}, "tests.resources: the request of 1Gi memory"),
        ({"resources": {"requests": {"memory": "512Mi"}, "limits": {"memory": "1000M"}}}, "less than the 1Gi"),
        ({"settings": {"codesUri": "http://minio/lake/codes.lance"}}, "expected s3://BUCKET/"),
        ({"settings": {"codesUri": "gs://lake/codes.lance"}}, "expected s3://BUCKET/"),
        ({"sidecars": [{"name": "kserve-container", "image": "a"}]}, "taken by another container"),
        ({"initContainers": [{"name": "a", "image": "a"}, {"name": "a", "image": "b"}]}, "taken by another container"),
        ({"ingress": {"enabled": True}}, "needs ingress.hosts"),
        ({"service": {"nodePort": 30000}}, "needs service.type=NodePort"),
        ({"upstreams": [NORTH]}, "upstreams and partners need settings.owner"),
        ({"partners": [{"caller": "*"}]}, "upstreams and partners need settings.owner"),
        ({"upstreams": [NORTH], "settings": {"owner": "north"}}, "upstreams: north is this archive itself"),
        ({"upstreams": [NORTH, NORTH], "settings": {"owner": "south"}}, "the owner north is given twice"),
        ({"partners": [{"caller": "alice"}], "settings": {"owner": "south"}}, '"alice" cannot be one'),
    ],
)
def test_a_contradiction_is_refused_in_words(wrong: dict[str, Any], words: str) -> None:
    values = copy.deepcopy(MINIMAL)
    for section, content in wrong.items():
        values[section] = {**values.get(section, {}), **content} if isinstance(content, dict) else content
    assert words in refusal("retrieval", values)


def test_resources_that_fit_are_taken() -> None:
    fitting = {"requests": {"cpu": "1500m", "memory": "1.5Gi"}, "limits": {"cpu": 2, "memory": 2147483648}}
    assert support.render(CHARTS / "retrieval", {**MINIMAL, "resources": fitting})
    gpu = {**MINIMAL, "resources": {"limits": {"nvidia.com/gpu": 1}}, "settings": {"device": "cuda:0"}}
    assert support.render(CHARTS / "retrieval", gpu)


def test_a_service_that_computes_on_cpus_says_so() -> None:
    assert "this service computes on CPUs" in refusal("federation", {**MINIMAL, "resources": GPU})


@pytest.mark.parametrize(
    ("chart", "wrong", "meant"),
    [
        ("retrieval", {"replicaCount": 3}, "there is no value replicaCount (did you mean replicas?)"),
        ("retrieval", {"settings": {"pollSecond": 3}}, "settings.pollSecond (did you mean settings.pollSeconds?)"),
        ("retrieval", {"bucket": "lake"}, "there is no value bucket (did you mean s3.bucket?)"),
        ("retrieval", {"image": {"tga": "1"}}, "image.tga (did you mean image.tag?)"),
        ("retrieval", {"xyzzy": {}}, "there is no value xyzzy"),
        ("federation", {"replicas": 2}, "there is no value replicas"),
        ("eoforge-dev", {"s3": {"storageClas": "x"}}, "s3.storageClas (did you mean s3.storageClassName?)"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(chart: str, wrong: dict[str, Any], meant: str) -> None:
    assert meant in refusal(chart, wrong)


def test_everything_wrong_with_all_charts_is_one_message() -> None:
    words = refusal(
        "eoforge",
        {
            "retreival": {},
            "global": {"s3": {"bukcet": "lake", "existingSecret": "mine"}, "imageRegistry": "a.b"} | {
                "image": {"registry": "c.d"}
            },
            "retrieval": {"replicaCount": 1, "auth": {"anonymous": True, "tokens": TOKENS}},
            "compression": {"settings": {"device": "cuda"}},
            "federation": {"route": {"enabled": True}},
            "dev": {"s3": {"enabled": True, "serverr": "minio"}},
            "kubeflow": {"pipelines": {"names": ["ingets"]}},
        },
    )  # fmt: skip
    for expected in (
        "eoforge: there is no value retreival (did you mean retrieval?)",
        "eoforge: there is no value global.s3.bukcet (did you mean global.s3.bucket?)",
        "eoforge: global.s3.existingSecret=mine",
        "eoforge: global.imageRegistry=a.b and global.image.registry=c.d differ",
        'eoforge: kubeflow.pipelines.names: there is no compiled pipeline "ingets"',
        "retrieval: there is no value replicaCount (did you mean replicas?)",
        "retrieval: auth.anonymous=true lets anyone call",
        "compression: settings.device=cuda needs a GPU",
        "federation: route.enabled=true needs route.parentRefs",
        "dev: there is no value s3.serverr (did you mean s3.server?)",
    ):
        assert expected in words


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("word", ["2024", "1e3", "true", "null", "0x1f"])
def test_names_that_look_like_numbers_stay_names(name: str, word: str) -> None:
    """A number, a truth value or nothing where Kubernetes wants a text is refused in the middle of an installation."""
    text = yaml.safe_dump(support.values_of(name))
    for key in ("existingSecret: eoforge-s3", "existingSecret: (?!eoforge-s3)[a-z-]+", "clientCaSecret: [a-z-]+"):
        text = re.sub(rf"{key}$", f"{key.partition(':')[0]}: '{word}'", text, flags=re.MULTILINE)
    values = yaml.safe_load(text)
    if values.get("kubeflow", {}).get("enabled", True):  # its secret has a fixed name
        values.setdefault("global", {}).setdefault("s3", {})["existingSecret"] = "eoforge-s3"
        values.setdefault("kubeflow", {})["namespace"] = word
    for service in SERVICES:
        values[service] = {**values.get(service, {}), "priorityClassName": word, "imagePullSecrets": [word]}
        values[service]["serviceAccount"] = {**values[service].get("serviceAccount", {}), "name": f"{word}"}
        values[service]["scratch"] = {"cacheClaim": word}
    release = word if word[0].isdigit() else f"{word}-0"
    found = support.objects(support.render(UMBRELLA, values, namespace=word, release=release))
    assert found
    assert {support.label(o): wrong for o in found if (wrong := schemas.problems(o, schemas.KUBERNETES[-1]))} == {}
    assert word in {o["metadata"]["namespace"] for o in found}


def test_every_value_that_pages_show_in_yaml_is_there() -> None:
    known = {chart.parent.name: set(chart_schema.keys(chart.parent)) for chart in CHARTS.glob("*/values.yaml")}
    shown = 0
    for page in (support.ROOT / "docs" / "operations.md", *CHARTS.glob("*/README.md")):
        own = known.get(page.parent.name, known["eoforge"])
        every = own | {f"{service}.{key}" for service in SERVICES for key in known[service]}
        every |= {f"dev.{key}" for key in known["eoforge-dev"]}
        prose = page.read_text().partition(chart_schema.MARKER)[0]
        for key in re.findall(r"--set(?:-string|-json)? '?\"?([A-Za-z][\w.]*)=", prose):
            assert key in every, f"{page}: --set {key}"
            shown += 1
        for block in re.findall(r"```yaml\n(.*?)```", prose, re.DOTALL):
            content = yaml.safe_load(block)
            if "apiVersion" in content:
                continue
            for path in paths(content, every):
                assert path in every, f"{page}: {path}"
                shown += 1
    assert shown > 5


def paths(node: Any, known: set[str], at: str = "") -> list[str]:
    """Paths of values in YAML, as deep as the charts know them."""
    if at in known or not isinstance(node, dict):
        return [at]
    return [path for key, value in node.items() for path in paths(value, known, f"{at}.{key}" if at else key)]


def with_value(chart: str, path: str, value: Any) -> dict[str, Any]:
    """Values that are good, but for one."""
    values = copy.deepcopy(BASE[chart])
    node = values
    *parents, last = path.split(".")
    for key in parents:
        node = node.setdefault(key, {})
    node[last] = value
    return values


@pytest.mark.parametrize("chart", BASE)
def test_the_values_around_the_nonsense_are_good(chart: str) -> None:
    assert support.objects(support.render(support.CHARTS / chart, BASE[chart]))


@pytest.mark.parametrize(
    ("chart", "path", "value"), CASES, ids=[f"{chart}-{path}-{i}" for i, (chart, path, _) in enumerate(CASES)]
)
def test_nonsense_is_refused_by_its_name(chart: str, path: str, value: Any) -> None:
    with pytest.raises(HelmError) as refused:
        support.render(support.CHARTS / chart, with_value(chart, path, value))
    words = str(refused.value)
    assert path.rpartition(".")[2] in words or path.partition(".")[0] in words
