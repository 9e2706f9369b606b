"""Audit of the training labels of a table by a bundle that classifies: suspected errors, and a report.

Rows of ``label_issues.lance`` are pairs of a patch and a class. The columns that cleanlab has too carry its names:
``is_label_issue``, ``label_score`` (low for wrong labels), ``given_label``, ``predicted_label``.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from eoforge.data.csv_table import MAX_BYTES, read_rows
from eoforge.data.labels import CLASSES, INDEX, NUM_CLASSES, multi_hot
from eoforge.data.loading.batch import PatchFilter
from eoforge.data.loading.loader import PatchLoader
from eoforge.data.loading.plot import rgb, s1_composite, thumbnail_png
from eoforge.data.loading.read_pair import read_pair
from eoforge.data.noise.derived import Derived, derive, provenance_of, seen_labels, training_labels
from eoforge.data.noise.errors import LabelErrors, label_errors
from eoforge.data.split import SPLITS
from eoforge.errors import DataRefused, UsageError
from eoforge.methods.prediction import open_class_predictor
from eoforge.progress import track
from eoforge.report import Html, concat, element, image, page, section, table
from eoforge.storage.addresses import TableRef, lance_uri, open_table, storage_options, table_exists, table_to_write
from eoforge.storage.objects import ObjectStore

if TYPE_CHECKING:
    from eoforge.bundle import Bundle

ISSUES = pa.schema(
    [
        pa.field("patch_id", pa.string(), nullable=False),
        pa.field("country", pa.string(), nullable=False),
        pa.field("class", pa.string(), nullable=False),
        pa.field("given_label", pa.bool_(), nullable=False),
        pa.field("predicted_label", pa.bool_(), nullable=False),
        pa.field("label_score", pa.float32(), nullable=False),
        pa.field("is_label_issue", pa.bool_(), nullable=False),
        pa.field("probability_wrong", pa.float32(), nullable=False),
    ]
)
TABLE, BUNDLE = "eoforge.patches", "eoforge.bundle"
REPORT = "report.html"
_BATCH = 64
_PICTURES = 12
_LISTED = 0.1
"""Least probability of a row: those below 0.5 are listed, but no issues."""


@dataclass(frozen=True)
class Audit:
    """Result of an audit.

    Attributes:
        issues: The table of issues.
        patches: Audited patches.
        labels: Number of labels that are more likely wrong than right.
        expected_wrong: Expected number of wrong labels, which counts unlikely ones by their probability too.
        report: Address of the report, or None.
        precision: Share of the issues that are wrong labels, where the noise of the version is known; else None.
        recall: Share of the wrong labels that are issues, likewise.
    """

    issues: str
    patches: int
    labels: int
    expected_wrong: float
    report: str | None = None
    precision: float | None = None
    recall: float | None = None


def audit(
    bundle: Bundle,
    data: TableRef,
    issues: str,
    *,
    report: str | None = None,
    replace: bool = False,
    device: str | None = None,
) -> Audit:
    """Suspected errors in the training labels of a table, most likely first.

    Args:
        bundle: Classifies; its temperature was fitted on clean validation labels, so its probabilities are calibrated.
        data: Patches table; labels of a derived version are audited where it has any.
        issues: New table of issues.
        report: Folder for ``report.html``.
        replace: Whether issues of the same patches and bundle are written again, as a repeated step does.
        device: Torch device.

    Raises:
        UsageError: The bundle cannot classify, or ``issues`` exists.
        NotFound: The table has no training patches.
    """
    target = table_to_write(issues)
    data = data.pinned()
    metadata = {TABLE: str(data), BUNDLE: bundle.id}
    if exists := table_exists(target):
        found_metadata = open_table(target).schema.metadata or {}
        if not replace or {k: found_metadata.get(k.encode(), b"").decode() for k in metadata} != metadata:
            raise UsageError(f"{target} exists; an audit writes a new table. Choose another name")
    names, given, probabilities = _predicted(bundle, data, device)
    found = label_errors(probabilities, given)
    countries = _countries(data, names)
    rows = _rows(names, countries, given, found)
    import lance

    lance.write_dataset(
        pa.Table.from_pylist(rows, schema=ISSUES.with_metadata(metadata)),
        lance_uri(target),
        mode="overwrite" if exists else "create",
        storage_options=storage_options(target),
    )
    made = Audit(target, len(names), sum(row["is_label_issue"] for row in rows), float(found.wrong.sum()))
    if _noise_is_known(provenance_of(open_table(data))):
        precision, recall = _against_truth(data, names, given, found)
        made = dataclasses.replace(made, precision=precision, recall=recall)
    if report is not None:
        store = ObjectStore(report)
        store.put(REPORT, _page(bundle, data, made, rows, given, found, countries).encode())
        made = dataclasses.replace(made, report=store.root)
    return made


def _noise_is_known(provenance: dict[str, Any] | None) -> bool:
    """Whether the clean labels of a version are the truth: noise was injected, or v1 labels stand for it."""
    return provenance is not None and ("noise" in provenance or _noise_is_known(provenance.get("of")))


def _against_truth(data: TableRef, names: list[str], given: Any, found: LabelErrors) -> tuple[float, float]:
    """Precision and recall of the issues."""
    order, clean = training_labels(open_table(data))
    row_of = {name: row for row, name in enumerate(order)}
    wrong = clean[[row_of[name] for name in names]] != given
    issue = found.wrong >= 0.5
    hits = int((issue & wrong).sum())
    return hits / max(int(issue.sum()), 1), hits / max(int(wrong.sum()), 1)


def _predicted(bundle: Bundle, data: TableRef, device: str | None) -> tuple[list[str], Any, Any]:
    predictor = open_class_predictor(bundle, device)
    loader = PatchLoader(
        data,
        batch_size=_BATCH,
        modalities=tuple(predictor.sensors),
        filter=PatchFilter(splits=(SPLITS[0],)),
        labelled=True,
    )
    names: list[str] = []
    given, probabilities = [], []
    with track("auditing", total=len(loader)) as progress:
        for batch in loader:
            names += batch.patch_id
            given.append(multi_hot(batch.label_mask.numpy().astype(np.uint32)) > 0)
            probabilities.append(predictor.predict(batch).probabilities)
            progress.advance()
    return names, np.concatenate(given), np.concatenate(probabilities)


def _countries(data: TableRef, names: list[str]) -> list[str]:
    rows = open_table(data).to_table(columns=["patch_id", "country"]).to_pydict()
    known = dict(zip(rows["patch_id"], rows["country"], strict=True))
    return [known[name] or "unknown" for name in names]


def _rows(names: list[str], countries: list[str], given: Any, found: LabelErrors) -> list[dict[str, Any]]:
    patches, classes = np.nonzero(found.wrong >= _LISTED)
    order = np.argsort(-found.wrong[patches, classes], kind="stable")
    rows = []
    for patch, label in zip(patches[order].tolist(), classes[order].tolist(), strict=True):
        chance = float(found.wrong[patch, label])
        rows.append(
            {
                "patch_id": names[patch],
                "country": countries[patch],
                "class": CLASSES[label],
                "given_label": bool(given[patch, label]),
                "predicted_label": bool(given[patch, label] != (chance >= 0.5)),
                "label_score": 1 - chance,
                "is_label_issue": chance >= 0.5,
                "probability_wrong": chance,
            }
        )
    return rows


def review(
    issues: str, *, decisions: str | None = None, min_probability: float | None = None, table: str | None = None
) -> Derived:
    """A derived version of the audited table with corrected training labels.

    Args:
        issues: Table of an audit.
        decisions: CSV with the columns ``patch_id``, ``class`` and ``present`` (1 or 0), as a person decided.
        min_probability: Instead: take every suggestion that is at least that likely.
        table: The audited table, if it has another address than the issues name.

    Raises:
        UsageError: Neither or both ways are given.
        DataRefused: A line names a class or patch that does not exist, or is malformed.
    """
    if (decisions is None) == (min_probability is None):
        raise UsageError("give either the decisions of a person (CSV) or a least probability of suggestions, not both")
    found = open_table(issues)
    metadata = found.schema.metadata or {}
    data = TableRef.parse(table) if table else TableRef.parse(metadata[TABLE.encode()].decode())
    if decisions is not None:
        chosen = _read_decisions(Path(decisions))
    else:
        rows = found.to_table(filter=f"probability_wrong >= {min_probability}").to_pylist()
        chosen = {(row["patch_id"], row["class"]): not row["given_label"] for row in rows}
    labels = seen_labels(open_table(data.uri))
    for (patch, label), present in chosen.items():
        if patch not in labels:
            raise DataRefused(f"{patch} is no patch of the training split of {data.uri}")
        labels[patch][INDEX[label]] = present
    before = provenance_of(open_table(data.uri))
    provenance = {"review": {"issues": issues, "decisions": len(chosen), "people": decisions is not None}, "of": before}
    return derive(data.uri, labels, provenance)


def _read_decisions(path: Path) -> dict[tuple[str, str], bool]:
    chosen: dict[tuple[str, str], bool] = {}
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataRefused(f"{path} has {path.stat().st_size} bytes; at most {MAX_BYTES} are read")
        data = path.read_bytes()
    except OSError as error:
        raise DataRefused(f"cannot read the decisions {path}: {error.strerror}") from error
    for line, row in read_rows(data, str(path), ("patch_id", "class", "present")):
        if row["class"] not in INDEX or row["present"] not in ("0", "1"):
            raise DataRefused(
                f"{path}, line {line}: expected one of the {NUM_CLASSES} classes and present 0 or 1; got "
                f"{row['class'][:80]!r} and {row['present'][:80]!r}"
            )
        chosen[row["patch_id"], row["class"]] = row["present"] == "1"
    return chosen


def _page(
    bundle: Bundle,
    data: TableRef,
    made: Audit,
    rows: list[dict[str, Any]],
    given: Any,
    found: LabelErrors,
    countries: list[str],
) -> str:
    issues = [row for row in rows if row["is_label_issue"]]
    per_class = Counter(row["class"] for row in issues)
    body = [
        (name, int(given[:, i].sum()), per_class[name], float(found.missed[i]), float(found.invented[i]))
        for i, name in enumerate(CLASSES)
    ]
    classes = table(("class", "given labels", "issues", "missed (estimate)", "invented (estimate)"), body)
    patches = Counter(countries)
    by_country = Counter(row["country"] for row in issues)
    lines = [(name, patches[name], by_country[name], by_country[name] / patches[name]) for name in sorted(patches)]
    expected = found.wrong.sum()
    lead = f"{len(issues):,} of {given.size:,} labels are more likely wrong than right; about {expected:,.0f} are."
    if made.precision is not None:
        lead += f" The noise is known: precision {made.precision:.2f}, recall {made.recall:.2f}."
    noise = provenance_of(open_table(data))
    parts = [
        section("By class", classes),
        section("By country", table(("country", "patches", "issues", "issues per patch"), lines)),
        section("Most likely errors", *(_card(data, row) for row in issues[:_PICTURES])),
    ]
    footer = f"Patches {data}; bundle {bundle.uri}; training labels: {json.dumps(noise) if noise else 'clean'}."
    return page("Label audit", lead, parts, footer)


def _card(data: TableRef, row: dict[str, Any]) -> Html:
    given = "given" if row["given_label"] else "not given"
    text = f"{row['class']}: {given}, wrong with probability {row['probability_wrong']:.2f} ({row['patch_id']})"
    pair = read_pair(data, row["patch_id"])
    parts: list[object] = [element("figcaption", text)]
    if pair.s2_10m is not None:
        parts.insert(0, image(thumbnail_png(rgb(pair.s2_10m)), text))
    elif pair.s1 is not None:
        parts.insert(0, image(thumbnail_png(s1_composite(pair.s1)), text))
    return element("figure", concat(parts))
