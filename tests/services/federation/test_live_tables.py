"""Silos whose tables change: a run uses the version that was registered when it began; silos without validation."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lance
import pyarrow as pa
import pytest

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.client.federation import FederationClient
from eoforge.client.silo import SiloClient
from eoforge.data.records import record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.errors import UsageError
from eoforge.federated.silo.silo import Silo
from eoforge.methods.federated_launch import prepare, strategy_of, table_snapshot, trainers, upload_model
from eoforge.storage.addresses import TableRef
from tests.federated.quadratic import Quadratic
from tests.services.federation.helpers import server_for, wait_connected
from tests.services.support import running, until

SMALL = {"rounds": "2", "local_epochs": "1", "width": "8", "size": "20", "bits": "16", "batch_size": "16"}


def patches(seed: int, splits: tuple[str, ...] = ("train", "validation", "test")) -> pa.Table:
    table = pa.Table.from_batches([record_batch(list(synthetic_pairs(48, seed=seed)))])
    return table.filter(pa.compute.is_in(table["split"], pa.array(splits)))


@contextmanager
def silo_on(target: str, folder: Path, name: str, table: TableRef) -> Iterator[Silo]:
    silo = Silo(
        SiloClient(target, silo_id=name),
        lambda task: trainers(task, table, name, modalities=["s2"]),
        folder / name,
        modalities=["s2"],
        snapshot=lambda: table_snapshot(table),
        methods=["fl_rs"],
        strategies=strategy_of,
    )
    thread = threading.Thread(target=silo.run, daemon=True)
    thread.start()
    try:
        yield silo
    finally:
        silo.stop()
        thread.join(60)


def start(client: FederationClient, table: TableRef, name: str, **policy: int) -> pb.Run:
    spec, model, roles = prepare("fl_rs", "tiny", {**SMALL, "algorithm": "fedavg"}, None, str(table))
    for field, value in policy.items():
        setattr(spec.policy, field, value)
    upload_model(client, spec, model, roles)
    client.create_run(spec, name)
    list(client.watch(name))
    return client.run(name)


def test_a_table_that_grew_fails_no_run_and_counts_in_the_next(tmp_path: Path) -> None:
    uri = str(tmp_path / "grows.lance")
    lance.write_dataset(patches(0), uri)
    table = TableRef(uri)
    with (
        running(server_for(tmp_path / "store")) as served,
        FederationClient(served.target) as client,
        silo_on(served.target, tmp_path, "a", table),
    ):
        wait_connected(client, 1)
        before = next(client.silos())
        lance.write_dataset(patches(1), uri, mode="append")
        for number in (1, 2):
            run = start(client, table, f"run-{number}", min_silos=1)
            assert run.status == pb.RUN_STATUS_FINISHED, run.failure
            (member,) = run.round.members
            assert member.data_version == str(number), "the version is fixed when the run begins"
            assert (member.samples == before.samples) == (number == 1)
            until(lambda: next(client.silos()).data_version == "2")  # it registers again when a run has ended


def test_a_silo_without_validation_patches_trains_and_does_not_evaluate(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tables = {}
    for seed, (name, splits) in enumerate({"a": ("train",), "b": ("train", "validation")}.items()):
        tables[name] = TableRef(str(tmp_path / f"{name}.lance"))
        lance.write_dataset(patches(seed, splits), tables[name].uri)
    with (
        running(server_for(tmp_path / "store")) as served,
        FederationClient(served.target) as client,
        silo_on(served.target, tmp_path, "a", tables["a"]),
        silo_on(served.target, tmp_path, "b", tables["b"]),
    ):
        run = start(client, tables["b"], "run", min_silos=2, evaluate_every=1)
        events = [e for e in client.watch("run") if e.WhichOneof("event") in ("reduced", "evaluated", "dropped")]
    assert run.status == pb.RUN_STATUS_FINISHED, run.failure
    assert [list(s.silos) for s in run.history] == [["a", "b"]] * 2
    assert [list(e.reduced.evaluators) or e.evaluated.silo for e in events] == [["b"], "b"] * 2
    assert all("f1_micro" in summary.evaluation for summary in run.history)
    assert "Traceback" not in capfd.readouterr().err


def test_patches_that_the_run_filters_out_are_said_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The silo registered validation patches, and none of them are of this run."""

    class Without(Quadratic):
        evaluates = False

        def evaluate(self, task: object, state: object) -> dict[str, float]:
            raise AssertionError("there is nothing to evaluate on")

    from tests.federated.quadratic import spec, write_model
    from tests.services.federation.helpers import SiloThread

    with running(server_for(tmp_path / "store")) as served, FederationClient(served.target) as client:
        runner = SiloThread(served.target, "a", tmp_path, Without(), until="run")
        model = client.put_model(write_model(tmp_path / "model.safetensors"))
        client.create_run(spec(model, policy={"rounds": 3, "min_silos": 1, "evaluate_every": 1}), "run")
        assert runner.join() == pb.RUN_STATUS_FINISHED
        run = client.run("run")
    assert all(not summary.evaluation for summary in run.history)
    assert "Traceback" not in capfd.readouterr().err


def test_a_coordinator_names_a_version_and_nothing_else(tmp_path: Path) -> None:
    from eoforge.methods.federated_launch import _pinned

    assert _pinned(TableRef("t"), pb.Task(data_version="7")) == TableRef("t", 7)
    assert _pinned(TableRef("t", 7), pb.Task(data_version="7")) == TableRef("t", 7)
    assert _pinned(TableRef("t"), pb.Task()) == TableRef("t")
    for table, version in ((TableRef("t", 6), "7"), (TableRef("t"), "../x"), (TableRef("t"), "-1")):
        with pytest.raises(UsageError, match="was registered with version"):
            _pinned(table, pb.Task(data_version=version))
