"""Training on a derived version and the audit of its labels, run for real by kfp.local."""

from __future__ import annotations

from pathlib import Path

import lance
import pytest

from eoforge.bundle import load_bundle, training_patches
from eoforge.data.noise.derived import add_noise, seen_labels
from eoforge.data.noise.scene import Noise
from eoforge.data.records import record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.data.tables.schema import PATCHES
from eoforge.methods.audit import review
from eoforge.storage.addresses import TableRef, open_table
from pipelines.run_local import run_local
from tests.pipelines.test_reports import assert_self_contained

SMALL = ["epochs=1", "batch_size=16", "size=30", "width=8", "latent=8", "bits=16"]


@pytest.mark.slow
def test_a_derived_version_is_trained_on_audited_and_reviewed(tmp_path: Path) -> None:
    table = str(tmp_path / "patches.lance")
    lance.write_dataset(record_batch(tuple(synthetic_pairs(90, seed=4))), table, schema=PATCHES)
    noisy = add_noise(table, Noise("class_change", 0.4)).table
    version = {"table": noisy.uri, "version": str(noisy.version)}
    training = {"runs": str(tmp_path / "runs"), "method": "grid", "preset": "tiny", "overrides": SMALL}
    trained = run_local("train", tmp_path / "kfp", {**version, **training})
    bundle = load_bundle(trained.outputs["bundle"])
    assert training_patches(bundle) == noisy

    params = {**version, "bundle": bundle.uri, "issues": str(tmp_path / "issues-{bundle}.lance")}
    first, again = (run_local("audit_labels", tmp_path / "kfp", params) for _ in range(2))
    assert first.outputs["issues_table"] == again.outputs["issues_table"]
    assert bundle.short_id in first.outputs["issues_table"]
    rows = [
        open_table(TableRef(run.outputs["issues_table"], int(run.outputs["issues_version"]))).to_table().to_pylist()
        for run in (first, again)
    ]
    assert rows[0] == rows[1]
    shown = first.find("audit-labels", "metrics").metadata
    assert shown["labels"] == sum(row["is_label_issue"] for row in rows[0])
    assert 0 <= shown["precision"] <= 1
    assert 0 <= shown["recall"] <= 1
    assert_self_contained(Path(first.outputs["report"]).read_text())

    reviewed = review(first.outputs["issues_table"], min_probability=0.5)
    before, after = seen_labels(open_table(noisy)), seen_labels(open_table(reviewed.table))
    changed = sum(int((before[name] != after[name]).sum()) for name in before)
    assert changed == sum(row["probability_wrong"] >= 0.5 for row in rows[0])
