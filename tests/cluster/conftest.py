"""The cluster of a test run, and namespaces in it.

Nothing here is collected unless this folder is named: `make cluster` does, `make test` needs Python alone. So
``pytest tests`` passes over it, and ``pytest tests/cluster`` or one of its files runs it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import binaries, controllers
from tests.cluster.control_plane import ControlPlane
from tests.cluster.release import Home, home

HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Passes over this folder unless an argument of pytest names it or something in it."""
    named = (Path(config.invocation_params.dir, argument.partition("::")[0]).resolve() for argument in config.args)
    return None if any(path.is_relative_to(HERE) for path in named) else True


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane with the definitions and controllers of KServe, JobSet and Kubeflow Trainer."""
    if todo := binaries.missing():
        names = ", ".join(component.name for component in todo)
        pytest.exit(f"not built: {names}. `make cluster` builds them; it needs Go", returncode=3)
    folder = tmp_path_factory.mktemp("cluster")
    with ControlPlane(folder) as found:
        if not binaries.existing():
            controllers.install_definitions(found)
            controllers.start_kserve(found)
            controllers.start_jobset(found)
            controllers.start_trainer(found)
        yield found
        if logs := os.environ.get("EOFORGE_CLUSTER_LOGS"):
            shutil.copytree(folder, logs, dirs_exist_ok=True, ignore=shutil.ignore_patterns("etcd", "*.key"))


@pytest.fixture
def place(cluster: ControlPlane) -> Iterator[Home]:
    """Two namespaces under restricted Pod Security and a quota: one of the release, one of Kubeflow's runs."""
    with home(cluster) as found:
        yield found
