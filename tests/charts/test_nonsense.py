"""Nonsense values are refused by the charts: an API server would refuse them in the middle of an installation."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from helm_python import HelmError

from tests.charts import support

NONSENSE = yaml.safe_load((support.ROOT / "tests" / "charts" / "nonsense.yaml").read_text())
CASES = [
    (chart, path, value) for chart, paths in NONSENSE.items() for path, values in paths.items() for value in values
]
SERVICE: dict[str, Any] = {"s3": {"bucket": "lake"}, "auth": {"anonymous": True}, "tls": {"existingSecret": "tls"}}
BASE: dict[str, dict[str, Any]] = {
    "retrieval": SERVICE | {"route": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["a.example"]}},
    "federation": SERVICE,
    "eoforge": support.values_of("dev-minio"),
    "eoforge-dev": {},
}


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
