"""The federated step against a real coordinator and two silos with tables of their own."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from eoforge.bundle import load_bundle
from eoforge.client import SiloClient
from eoforge.data.ingest.run import ingest
from eoforge.data.synthetic.archive import generate_archive
from eoforge.errors import EoforgeError
from eoforge.federated.report import run_page
from eoforge.federated.silo.silo import Silo
from eoforge.methods.federated_launch import trainers
from eoforge.storage.addresses import TableRef
from pipelines.federation import federate
from pipelines.lineage import write_bundle_lineage
from pipelines.settings import IMAGE
from tests.services.federation.helpers import server_for
from tests.services.support import running

OVERRIDES = {"rounds": "2", "local_epochs": "1", "width": "8", "size": "20"}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Silo -> its patches."""
    folder = tmp_path_factory.mktemp("silos")
    made = {}
    for seed, silo in enumerate(("north", "south")):
        generate_archive(str(folder / silo / "archive"), 24, seed=seed)
        made[silo] = str(folder / silo / "patches.lance")
        ingest(str(folder / silo / "archive"), made[silo])
    return made


def _take_part(target: str, name: str, folder: Path, table: str) -> threading.Thread:
    """A silo in a thread, until the run has ended."""
    silo = Silo(
        SiloClient(target, silo_id=name), lambda task: trainers(task, TableRef(table), name), folder / name, samples=24
    )
    thread = threading.Thread(target=silo.run, kwargs={"until_end_of": "quarterly"}, daemon=True)
    thread.start()
    return thread


def test_a_run_is_started_awaited_and_found_again(tables: dict[str, str], tmp_path: Path) -> None:
    with running(server_for(tmp_path / "store")) as served:
        silos = [_take_part(served.target, name, tmp_path, table) for name, table in tables.items()]
        arguments = (served.target, "quarterly", "fl_rs", "tiny", OVERRIDES, tables["north"])
        run = federate(*arguments, min_silos=2)
        again = federate(*arguments, min_silos=2)
        for silo in silos:
            silo.join(60)
            assert not silo.is_alive()
    assert again.bundle_uri == run.bundle_uri
    assert [len(summary.silos) for summary in run.history] == [2, 2]
    page = run_page(run)
    assert "quarterly" in page
    assert page.count("data:image/png;base64,") == 1
    bundle = load_bundle(run.bundle_uri)
    facts = write_bundle_lineage(str(tmp_path / "lineage.json"), bundle)
    assert (facts["method"], facts["patches_uri"]) == ("fl_rs", None)
    assert (facts["seed"], facts["image"]) == (bundle.config["seed"], None)
    with pytest.MonkeyPatch.context() as pod:
        pod.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        assert write_bundle_lineage(str(tmp_path / "lineage.json"), bundle)["image"] == IMAGE


def test_a_run_that_cannot_be_is_refused(tables: dict[str, str], tmp_path: Path) -> None:
    with running(server_for(tmp_path / "store")) as served, pytest.raises(EoforgeError, match="quorum"):
        federate(served.target, "bad", "fl_rs", "tiny", OVERRIDES, tables["north"], min_silos=1, quorum=5)
