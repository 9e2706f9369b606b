"""Training runs: kill and resume, several ranks, checkpoints, logs, early stopping."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest
import torch

from eoforge.bundle import load_bundle, training_patches
from eoforge.data.records import PatchPair, record_batch
from eoforge.errors import DataRefused, EoforgeError, NotFound, UsageError
from eoforge.logs import configure_logs
from eoforge.methods import get_method
from eoforge.methods.run_files import RunFiles, State, run_name
from eoforge.storage.addresses import TableRef, join, storage_options
from eoforge.storage.objects import ObjectStore
from tests.methods.conftest import SMALL
from tests.methods.train_worker import killed_after

METHOD = get_method("ss_cm_rsir")
ROOT = Path(__file__).resolve().parents[2]
WORKER = [sys.executable, "-m", "tests.methods.train_worker"]
RUN = {**SMALL, "checkpoint_steps": "2"}


def assignments(overrides: dict[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in overrides.items()]


def weights_equal(first: str, second: str) -> bool:
    a, b = load_bundle(first).weights(), load_bundle(second).weights()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def bundles_in(stdout: str) -> list[str]:
    return [line.removeprefix("bundle: ") for line in stdout.splitlines() if line.startswith("bundle: ")]


def figures(uri: str) -> tuple[Any, ...]:
    """Everything that a run logged except its time."""
    bundle = load_bundle(uri)
    return bundle.read("curve.csv"), bundle.metrics["history"], bundle.metrics["best_epoch"], bundle.config


@pytest.fixture(scope="module")
def whole(table: TableRef, tmp_path_factory: pytest.TempPathFactory) -> str:
    return METHOD.train(table, str(tmp_path_factory.mktemp("whole")), METHOD.config("tiny", RUN)).uri


def test_a_run_killed_twice_and_resumed_equals_the_uninterrupted_one(table: TableRef, whole: str, runs: str) -> None:
    command = [*WORKER, str(table), runs]
    # Four steps an epoch, a checkpoint every two: the first kill comes right after epoch 0, the second loses a step.
    for die_after in ("4", "3"):
        killed = subprocess.run([*command, "--die-after", die_after, *assignments(RUN)], capture_output=True, cwd=ROOT)
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    done = subprocess.run([*command, *assignments(RUN)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    (resumed,) = bundles_in(done.stdout)
    assert weights_equal(resumed, whole)
    assert figures(resumed) == figures(whole)


def test_ctrl_c_raises_keyboard_interrupt_and_the_run_resumes(
    table: TableRef, whole: str, runs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, save = signal.getsignal(signal.SIGINT), RunFiles.save

    def interrupted(*args: Any) -> None:
        save(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunFiles, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            METHOD.train(table, runs, METHOD.config("tiny", RUN))
    assert signal.getsignal(signal.SIGINT) is before
    resumed = METHOD.train(table, runs, METHOD.config("tiny", RUN)).uri
    assert figures(resumed) == figures(whole)
    assert weights_equal(resumed, whole)


def test_two_ranks_train_as_one(table: TableRef, whole: str, runs: str) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]  # it finds a port
    command = [*launcher, "-m", "tests.methods.train_worker", str(table), runs, *assignments(RUN)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    uris = bundles_in(done.stdout)
    assert len(uris) == 2
    assert uris[0] == uris[1]
    together, alone = load_bundle(uris[0]), load_bundle(whole)
    assert together.metrics["ranks"] == 2
    losses = [[row["loss"] for row in b.metrics["history"]] for b in (together, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
    weights = alone.weights()
    for name, tensor in together.weights().items():
        assert torch.allclose(tensor.float(), weights[name].float(), atol=5e-3), name


def test_a_finished_run_is_not_trained_again_unless_asked(table: TableRef, runs: str) -> None:
    config = METHOD.config("tiny", {**RUN, "epochs": "1"})
    first = METHOD.train(table, runs, config)
    assert METHOD.train(table, runs, config).id == first.id
    again = METHOD.train(table, runs, config, resume=False)
    assert again.id != first.id  # the time it took differs
    assert weights_equal(again.uri, first.uri)


def test_the_newest_version_is_pinned_and_tagged(table: TableRef, runs: str) -> None:
    bundle = METHOD.train(TableRef(table.uri), runs, METHOD.config("tiny", {**RUN, "epochs": "1"}))
    assert training_patches(bundle) == table
    assert lance.dataset(table.uri).tags.list()[f"bundle-{bundle.short_id}"]["version"] == 1


def test_logs_hold_every_step(table: TableRef, runs: str) -> None:
    bundle = METHOD.train(table, runs, METHOD.config("tiny", {**RUN, "accumulate": "2"}))
    rows = list(csv.DictReader(io.StringIO(bundle.read("curve.csv").decode())))
    assert [(row["epoch"], row["batch"]) for row in rows] == [(str(e), str(b)) for e in range(3) for b in range(4)]
    assert all(float(row["loss"]) > 0 for row in rows)
    assert max(float(row["lr"]) for row in rows) <= 2e-3
    history = bundle.metrics["history"]
    assert [row["epoch"] for row in history] == [0, 1, 2]
    assert all("validation_score" in row for row in history)
    assert bundle.metrics["training_seconds"] > 0
    logs = Path(runs) / "logs"
    assert list(logs.glob("*/curve.csv"))
    assert list(logs.glob("*/events.*"))


def test_accumulated_gradients_are_the_mean_over_batches(table: TableRef, runs: str) -> None:
    run = {**RUN, "epochs": "1", "warmup_epochs": "0"}  # the first rate of a warm-up is 0
    once = METHOD.train(table, runs, METHOD.config("tiny", run))
    twice = METHOD.train(table, runs, METHOD.config("tiny", {**run, "accumulate": "2"}))
    first, second = (list(csv.DictReader(io.StringIO(b.read("curve.csv").decode()))) for b in (once, twice))
    assert first[0]["loss"] == second[0]["loss"]
    assert first[1]["loss"] != second[1]["loss"]  # no step was made in between


def test_early_stopping_keeps_the_best_epoch(table: TableRef, runs: str) -> None:
    overrides = {**RUN, "epochs": "30", "learning_rate": "1e-9", "patience": "2"}
    metrics = METHOD.train(table, runs, METHOD.config("tiny", overrides)).metrics
    scores = [row["validation_score"] for row in metrics["history"]]
    assert metrics["stopped_early"]
    assert len(scores) == metrics["best_epoch"] + 3 < 30
    assert metrics["validation_score"] == max(scores)


@pytest.mark.s3
def test_training_on_s3(s3: str, pairs: list[PatchPair]) -> None:
    uri = join(s3, "patches.lance")
    lance.write_dataset(pa.Table.from_batches([record_batch(pairs)]), uri, storage_options=storage_options(uri))
    bundle = METHOD.train(TableRef(uri, 1), join(s3, "runs"), METHOD.config("tiny", {**RUN, "epochs": "1"}))
    assert bundle.uri.startswith(s3)
    assert load_bundle(bundle.uri) == bundle
    keys = list(ObjectStore(join(s3, "runs")).list())
    assert [k for k in keys if k.startswith("logs/") and "events." in k]
    assert [k for k in keys if k.endswith("best.ckpt")]


def test_runs_that_cannot_train_are_refused(
    table: TableRef, runs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"takes 512 patches .* training split of .*patches.lance@1 has 32\."):
        METHOD.train(table, runs, METHOD.config("tiny", {**RUN, "batch_size": "512"}))
    with pytest.raises(EoforgeError, match="training diverged: loss nan"):
        METHOD.train(table, runs, METHOD.config("tiny", {**RUN, "learning_rate": "1e30", "warmup_epochs": "0"}))
    with pytest.raises(NotFound):
        METHOD.train(TableRef(str(tmp_path / "absent.lance")), runs, METHOD.config("tiny", RUN))
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UsageError, match="multiple of the 3 ranks"):
        METHOD.train(table, runs, METHOD.config("tiny", RUN))


@pytest.mark.parametrize("method", ["ss_cm_rsir", "csmae", "rs_jcif"])
@pytest.mark.parametrize("stage", ["batch_size", "hash_batch_size", "joint_batch_size"])
def test_a_small_table_is_refused_before_anything_is_read(
    method: str, stage: str, table: TableRef, runs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second stage too: it would fail after the first has trained."""
    chosen = get_method(method)
    names = {field.name for field in dataclasses.fields(chosen.config_type)}
    if stage not in names:
        with pytest.raises(UsageError, match="unknown setting"):
            chosen.config("tiny", {stage: "512"})
        return

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("pixels were read")

    monkeypatch.setattr("eoforge.methods.run.band_statistics", refused)
    with pytest.raises(UsageError, match=rf"takes 512 patches .* has 32\. Choose a smaller {stage}, or ingest more"):
        chosen.train(table, runs, chosen.config("tiny", {"batch_size": "8", stage: "512"}))
    assert not Path(runs).exists()


def test_a_resumed_run_says_where_it_goes_on(
    table: TableRef, runs: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs(as_json=True)
    killed_after(6, lambda: METHOD.train(table, runs, METHOD.config("tiny", RUN)), monkeypatch)
    assert "resumed" not in capsys.readouterr().err
    bundle = METHOD.train(table, runs, METHOD.config("tiny", RUN))
    assert "resumed at step 6 of 12" in capsys.readouterr().err
    METHOD.train(table, runs, METHOD.config("tiny", RUN))
    (said,) = [json.loads(line) for line in capsys.readouterr().err.splitlines() if "already trained" in line]
    assert said["bundle"] == bundle.uri


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    files = RunFiles(str(tmp_path), "run")
    files.save(State(epoch=2), {"w": torch.ones(3)}, {"state": {}, "param_groups": []})
    state, weights = files.resume()
    assert state.epoch == 2
    assert torch.equal(weights["w"], torch.ones(3))
    path = tmp_path / "checkpoints" / "run" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataRefused, match="damaged"):
        files.resume()


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path: Path) -> None:
    files = RunFiles(str(tmp_path), "run")
    path = tmp_path / "checkpoints" / "run" / "last.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state": Path("."), "weights": {}}, path)
    with pytest.raises(DataRefused, match="damaged"):
        files.resume()


def test_models_load_without_the_training_stack() -> None:
    heavy = ("pytorch_lightning", "timm", "torchmetrics")
    code = f"import sys, eoforge.methods.ss_cm_rsir.method; print([n for n in {heavy!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_run_names_depend_on_method_config_and_table() -> None:
    names = {
        run_name(method, {"seed": seed}, TableRef("t", version))
        for method in ("a", "b")
        for seed in (0, 1)
        for version in (1, 2)
    }
    assert len(names) == 8
