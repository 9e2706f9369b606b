"""Audit and review: suspected labels as a table and a report, corrections as a version."""

from __future__ import annotations

from pathlib import Path

import lance
import numpy as np
import pytest

from eoforge.cli import main
from eoforge.data.labels import CLASSES
from eoforge.data.noise.derived import add_noise, provenance_of, seen_labels
from eoforge.data.noise.scene import Noise
from eoforge.data.records import record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.data.tables.schema import PATCHES
from eoforge.errors import DataRefused, UsageError
from eoforge.methods import get_method
from eoforge.methods.audit import audit, review
from eoforge.storage.addresses import TableRef, open_table

TRAINING = {"epochs": "8", "batch_size": "32", "size": "30", "width": "16", "latent": "16", "bits": "16"}


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    root = tmp_path_factory.mktemp("audit")
    table = str(root / "patches.lance")
    lance.write_dataset(record_batch(list(synthetic_pairs(240, seed=4))), table, schema=PATCHES)
    clean = seen_labels(open_table(table))
    noisy = add_noise(table, Noise("class_change", 0.3)).table
    method = get_method("rs_irl_svae")
    bundle = method.train(noisy, str(root / "runs"), method.config("tiny", TRAINING))
    made = audit(bundle, noisy, str(root / "issues.lance"), report=str(root / "report"))
    return made, noisy, bundle, clean


def test_issues_are_better_than_chance_and_ordered(audited):
    made, noisy, _, clean = audited
    rows = open_table(made.issues).to_table().to_pylist()
    given = seen_labels(open_table(noisy))
    truth = [clean[row["patch_id"]][CLASSES.index(row["class"])] != row["given_label"] for row in rows]
    rate = np.mean([(clean[name] != given[name]).mean() for name in given])
    assert len(rows) > 100
    assert np.mean(truth[:60]) > 3 * rate
    assert [r["probability_wrong"] for r in rows] == sorted((r["probability_wrong"] for r in rows), reverse=True)
    assert all(row["given_label"] == given[row["patch_id"]][CLASSES.index(row["class"])] for row in rows)
    assert sum(row["is_label_issue"] for row in rows) == made.labels
    assert all((row["predicted_label"] != row["given_label"]) == row["is_label_issue"] for row in rows)
    assert made.patches == len(given)
    issues = [right for row, right in zip(rows, truth, strict=True) if row["is_label_issue"]]
    wrong = sum(int((clean[name] != given[name]).sum()) for name in given)
    assert made.precision == pytest.approx(np.mean(issues))
    assert made.recall == pytest.approx(sum(issues) / wrong)


def test_the_report_counts_classes_and_countries_and_shows_patches(audited):
    made, *_ = audited
    text = Path(made.report, "report.html").read_text()
    assert all(heading in text for heading in ("By class", "By country", "Most likely errors", "class_change"))
    assert text.count("<figure") == min(12, made.labels)
    assert f"precision {made.precision:.2f}, recall {made.recall:.2f}" in text


def test_decisions_of_a_person_become_a_version(audited, tmp_path):
    made, noisy, _, _ = audited
    row = open_table(made.issues).to_table().slice(0, 1).to_pylist()[0]
    before = seen_labels(open_table(noisy))
    path = tmp_path / "decisions.csv"
    path.write_text(f'patch_id,class,present\n{row["patch_id"]},"{row["class"]}",{int(not row["given_label"])}\n')
    reviewed = review(made.issues, decisions=str(path))
    after = seen_labels(open_table(reviewed.table))
    changed = {name for name in after if (after[name] != before[name]).any()}
    assert changed == {row["patch_id"]}
    kept = provenance_of(open_table(reviewed.table))
    assert kept["review"]["people"] is True
    assert kept["of"]["noise"]["kind"] == "class_change"


def test_bad_decisions_are_named(audited, tmp_path):
    made, *_ = audited
    path = tmp_path / "decisions.csv"
    for text, message in (
        ("patch_id,class\na,b\n", "it lacks present"),
        ("patch_id,class,present\na,Forest,1\n", r"line 2: expected one of the 19 classes .* got 'Forest' and '1'"),
        ("patch_id,class,present\nnobody,Pastures,1\n", "nobody is no patch of the training split"),
        ("patch_id,class,present\n" + "a" * 200_000, "line 2 of .* is no CSV"),
    ):
        path.write_text(text)
        with pytest.raises(DataRefused, match=message):
            review(made.issues, decisions=str(path))
    with pytest.raises(DataRefused, match="cannot read the decisions"):
        review(made.issues, decisions=str(tmp_path / "absent.csv"))
    with pytest.raises(UsageError, match="not both"):
        review(made.issues)


def test_an_audit_never_overwrites(audited):
    made, noisy, bundle, _ = audited
    with pytest.raises(UsageError, match="exists; an audit writes a new table"):
        audit(bundle, noisy, made.issues)


def test_a_repeated_audit_replaces_its_own_issues_alone(audited, tmp_path):
    made, noisy, bundle, _ = audited
    again = audit(bundle, noisy, made.issues, replace=True)
    assert (again.labels, again.precision) == (made.labels, made.precision)
    with pytest.raises(UsageError, match="exists; an audit writes a new table"):
        audit(bundle, TableRef(noisy.uri, 1), made.issues, replace=True)
    clean = audit(bundle, TableRef(noisy.uri, 1), str(tmp_path / "clean.lance"))
    assert clean.precision is clean.recall is None  # nobody knows which labels of an archive are wrong


def test_the_commands_say_what_they_did(audited, capsys, tmp_path):
    made, noisy, bundle, _ = audited
    issues = str(tmp_path / "issues.lance")
    assert main(["audit", str(noisy), issues, "--bundle", bundle.uri, "--json"]) == 0
    assert f'"labels": {made.labels}' in capsys.readouterr().out
    assert main(["review", issues, "--min-probability", "0.99", "--json"]) == 0
    assert main(["noise", noisy.uri, "--kind", "random", "--rate", "0.1"]) == 2
    assert "noise kind must be one of" in capsys.readouterr().err
    assert main(["noise", noisy.uri, "--kind", "additive", "--rate", "0.1", "--json"]) == 0
    version = TableRef.parse(noisy.uri).pinned()
    assert f'"table": "{version}"' in capsys.readouterr().out
