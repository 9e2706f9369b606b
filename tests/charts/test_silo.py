"""The example of a silo on a cluster of its own: valid, restricted, and a command that the command line knows."""

from __future__ import annotations

import pytest
import yaml
from typer.testing import CliRunner

from eoforge.cli.federate.commands import federate_app
from tests.charts import support
from tests.charts.schemas import KUBERNETES, problems
from tests.charts.test_security import unwritable, violations

EXAMPLE = support.CHARTS / "federation" / "examples" / "silo.yaml"


@pytest.fixture(scope="module")
def found() -> list[support.Object]:
    return list(yaml.load_all(EXAMPLE.read_text(), support.StrictLoader))


@pytest.mark.parametrize("version", KUBERNETES)
def test_it_is_valid(found: list[support.Object], version: str) -> None:
    assert [o["kind"] for o in found] == ["PersistentVolumeClaim", "Job"]
    assert [problem for o in found for problem in problems(o, version)] == []


def test_its_pod_is_restricted(found: list[support.Object]) -> None:
    (pod,) = support.pods(found)
    assert violations(pod) == []
    assert unwritable(pod) == []


def test_the_command_line_knows_its_options(found: list[support.Object]) -> None:
    (pod,) = support.pods(found)
    program, first, second, *options = pod.containers[0]["args"]
    assert (program, first, second) == ("eoforge", "federate", "silo")
    shown = CliRunner().invoke(federate_app, ["silo", "--help"], env={"COLUMNS": "200"}).output
    assert [o for o in options if o.partition("=")[0] not in shown] == []
