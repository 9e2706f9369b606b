"""A node with the umbrella chart for all tests of this folder, which runs if it is named: `make cluster-pods`."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import binaries, controllers
from tests.cluster.control_plane import ControlPlane
from tests.cluster.pods import images, machine, sandbox
from tests.cluster.pods.node import Node, start
from tests.cluster.pods.sandbox import Sandbox
from tests.cluster.pods.trial import Trial, trial

HERE = Path(__file__).parent
REPORT: list[str] = []
"""What was measured, for the end of the run."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Passes over this folder unless an argument of pytest names it or something in it."""
    named = (Path(config.invocation_params.dir, argument.partition("::")[0]).resolve() for argument in config.args)
    return None if any(path.is_relative_to(HERE) for path in named) else True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what was measured."""
    if REPORT:
        terminalreporter.section("measured")
    for line in REPORT:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """A ready node with the controllers of KServe, JobSet and Kubeflow Trainer."""
    if reason := machine.missing():
        pytest.exit(f"NOT RUN: {reason}", returncode=3)
    if todo := binaries.missing((*binaries.COMPONENTS, *binaries.NODE)):
        names = ", ".join(component.name for component in todo)
        pytest.exit(f"not built: {names}. `make cluster-pods` builds them; it needs Go", returncode=3)
    began = time.monotonic()
    images.build()
    REPORT.append(f"images built, or found unchanged: {time.monotonic() - began:.0f} s")
    folder = Path(tempfile.mkdtemp(prefix="eoforge-node-", dir=machine.FOLDER))
    try:
        addresses = (sandbox.NODE, "10.96.0.1")
        with Sandbox(folder) as made, ControlPlane(folder, sandbox.HOST, addresses, fake_nodes=False) as plane:
            controllers.install_definitions(plane)
            controllers.start_kserve(plane)
            controllers.start_jobset(plane)
            controllers.start_trainer(plane)
            found = start(plane, made)
            REPORT.extend(f"{name}: {seconds:.0f} s" for name, seconds in found.seconds.items())
            yield found
            if logs := os.environ.get("EOFORGE_CLUSTER_LOGS"):
                skipped = shutil.ignore_patterns("etcd", "state", "*.key")
                shutil.copytree(folder, logs, dirs_exist_ok=True, ignore=skipped)
    finally:
        sandbox.remove(folder)


@pytest.fixture(scope="session")
def empty(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """The release under KServe, on an empty bucket; tests see what retrieval did before there was an index."""
    with trial(node, tmp_path_factory.mktemp("trial"), REPORT) as found:
        found.install(kserve=True)
        found.watch_waiting()
        yield found


@pytest.fixture(scope="session")
def filled(empty: Trial) -> Trial:
    """The same release, once pipelines have filled the bucket and everything is ready."""
    empty.fill()
    empty.serve()
    return empty
