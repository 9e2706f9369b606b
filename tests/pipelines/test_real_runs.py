"""Pipelines run for real by kfp.local on a tiny archive: interrupted, finished, compared, run again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eoforge.bundle import load_bundle, training_patches
from eoforge.data.ingest.run import ingest
from eoforge.storage.addresses import TableRef, open_table
from pipelines.run_local import LocalRun, run_local
from tests.pipelines.conftest import DamagedArchive
from tests.pipelines.test_ranges import MAX_PARAMETER_BYTES
from tests.pipelines.test_reports import assert_self_contained

SHARD_ROWS = 16
START_S = 600.0

# A shell without job control starts what runs behind it deaf to SIGINT, and children inherit that.
INTERRUPTIBLE = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("pipelines.run_local", run_name="__main__", alter_sys=True)
"""

# Some twenty steps, each a Python process of its own that imports torch or Lance: a minute on two idle cores, but the
# suite's limit is meant for tests that do the work themselves.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def content(table: str | Path) -> dict[str, str]:
    """Digest of every patch by id; tables are equal if these are."""
    rows = open_table(str(table)).to_table(columns=["patch_id", "digest"]).to_pylist()
    found = {row["patch_id"]: row["digest"] for row in rows}
    assert len(found) == len(rows), "a patch is there twice"
    return found


def parameters(folder: Path) -> Iterator[tuple[str, str]]:
    """Every parameter that a step put out, as it travels."""
    for file in folder.rglob("executor_output.json"):
        for name, value in json.loads(file.read_text()).get("parameterValues", {}).items():
            yield f"{file.parent.name}.{name}", json.dumps(value)


@pytest.fixture(scope="module")
def served(archive: DamagedArchive, tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalRun, Path]:
    """An ingestion that was killed in the middle, and then the whole chain over the same table."""
    root = tmp_path_factory.mktemp("served")
    params = {"archive": str(archive.uri), "table": str(root / "patches.lance"), "shard_rows": SHARD_ROWS}
    kill_when_a_shard_is_written(root, params)
    chain: dict[str, Any] = {
        **params,
        "runs": str(root / "runs"),
        "codes": str(root / "codes-{bundle}.lance"),
        "preset": "tiny",
        "overrides": ["epochs=1", "batch_size=8", "bits=32"],
    }
    return run_local("archive_to_service", root / "kfp", chain), root


def kill_when_a_shard_is_written(root: Path, params: dict[str, Any]) -> None:
    """Starts the ingest pipeline and kills it, with all its steps, as soon as it has written anything of a shard."""
    arguments = [f"{name}={value}" for name, value in params.items()]
    command = [sys.executable, "-c", INTERRUPTIBLE, "ingest", "--root", str(root / "killed"), *arguments]
    table, log = root / "patches.lance", root / "killed.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink)
    end = time.monotonic() + START_S
    while process.poll() is None and not list(table.glob("data/*.lance")):
        assert time.monotonic() < end, f"no shard was written: {log.read_text()[-2000:]}"
        time.sleep(0.01)
    assert process.poll() is None, f"the pipeline ended before it could be killed: {log.read_text()[-2000:]}"
    # run_local ends its own children when it is interrupted, which Ctrl-C is.
    os.kill(process.pid, signal.SIGINT)
    process.wait(START_S)
    assert content(table) == {}, "shards must not be visible before the commit"


def test_chain_resumes_the_killed_ingestion_and_equals_a_direct_one(
    served: tuple[LocalRun, Path], archive: DamagedArchive, tmp_path: Path
) -> None:
    run, root = served
    ingest(str(archive.uri), str(tmp_path / "direct.lance"))
    assert content(root / "patches.lance") == content(tmp_path / "direct.lance")
    summary = json.loads(run.outputs["summary"])
    assert summary["patches_in"] == archive.patches
    assert (summary["added"], summary["quarantined"]) == (archive.patches - 1, 1)
    assert run.outputs["version"] == str(open_table(str(root / "patches.lance")).version)


def test_chain_leaves_a_bundle_and_codes_of_the_same_version(served: tuple[LocalRun, Path]) -> None:
    run, root = served
    bundle = load_bundle(run.outputs["bundle"])
    assert training_patches(bundle) == TableRef(str(root / "patches.lance"), int(run.outputs["version"]))
    assert bundle.config["bits"] == 32
    assert run.outputs["codes_table"] == str(root / f"codes-{bundle.short_id}.lance")
    codes = open_table(TableRef(run.outputs["codes_table"], int(run.outputs["codes_version"])))
    keys = codes.to_table(columns=["patch_id", "modality"]).to_pylist()
    found = sorted((row["patch_id"], row["modality"]) for row in keys)
    assert found == sorted((p, m) for p in content(root / "patches.lance") for m in ("s1", "s2"))


def test_chain_shows_pages_metrics_and_lineage(served: tuple[LocalRun, Path]) -> None:
    run, _ = served
    for name in ("quality", "curves", "retrieval"):
        assert_self_contained(Path(run.outputs[name]).read_text())
    kinds = {(a.step, a.name): a.kind for a in run.artifacts}
    assert kinds["quality-report", "overview"] == kinds["train", "card"] == kinds["evaluate", "overview"] == "Markdown"
    assert kinds["commit-ingest", "metrics"] == kinds["evaluate", "metrics"] == "Metrics"
    assert run.find("commit-ingest", "metrics").metadata["patches_in"] == 48
    assert run.find("evaluate", "metrics").metadata["queries"] > 0
    lineage = json.loads(Path(run.find("train", "lineage").path).read_text())
    assert lineage["id"] == load_bundle(run.outputs["bundle"]).id
    assert lineage["patches_version"] == int(run.outputs["version"])
    codes = json.loads(Path(run.find("commit-index", "lineage").path).read_text())
    assert (codes["uri"], codes["version"]) == (run.outputs["codes_table"], int(run.outputs["codes_version"]))


def test_every_parameter_that_travelled_is_small(served: tuple[LocalRun, Path]) -> None:
    _, root = served
    seen = dict(parameters(root / "kfp"))
    assert any(name.startswith("plan-ingest") for name in seen)
    assert {n: len(v) for n, v in seen.items() if len(v.encode()) > MAX_PARAMETER_BYTES} == {}


def test_running_again_adds_nothing_and_keeps_the_bundle(
    served: tuple[LocalRun, Path], archive: DamagedArchive
) -> None:
    run, root = served
    before = content(root / "patches.lance")
    params = {"archive": str(archive.uri), "table": str(root / "patches.lance"), "shard_rows": SHARD_ROWS}
    again = run_local("ingest", root / "kfp", params)
    summary = json.loads(again.outputs["summary"])
    assert (summary["added"], summary["changed"], summary["unchanged"]) == (0, 0, archive.patches - 1)
    assert content(root / "patches.lance") == before
    codes = {"bundle": run.outputs["bundle"], "table": params["table"], "version": run.outputs["version"]}
    indexed = run_local("index", root / "kfp", {**codes, "codes": str(root / "codes-{bundle}.lance")})
    assert indexed.outputs["codes_table"] == run.outputs["codes_table"]
    assert open_table(indexed.outputs["codes_table"]).count_rows() == 2 * len(before)
