"""Evaluation of retrieval and its report, with an encoder whose correct results are known."""

from __future__ import annotations

import dataclasses
import json
import re
import zlib

import numpy as np
import pytest
import torch

from eoforge.bundle import write_bundle
from eoforge.data.loading.plot import radar_colours
from eoforge.data.records import record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.data.tables.commit import create_table
from eoforge.data.tables.schema import PATCHES
from eoforge.errors import UsageError
from eoforge.methods import METHODS, MethodEntry, Task
from eoforge.methods.evaluation.answers import tie_note
from eoforge.methods.evaluation.retrieval import EMBEDDING, RANDOM, TRAINED, UNTRAINED, measure
from eoforge.methods.evaluation.retrieval_report import retrieval_report_html
from eoforge.methods.evaluation.run import evaluate
from eoforge.metrics.retrieval import retrieval_measures
from eoforge.storage.addresses import TableRef
from tests.methods.fakes import RegisteredMethod


class LabelEncoder:
    """Codes of the label mask, seven times, and a hash of the name: equal labels are near, and both sensors agree."""

    bits, embedding_dim, modalities, device = 256, 256, ("s1", "s2"), "cpu"

    def encode(self, batch, modality):
        assert (batch.s1 if modality == "s1" else batch.s2_10m) is not None
        words = np.empty((len(batch), 8), np.uint32)
        words[:, :7] = batch.label_mask.numpy()[:, None]
        words[:, 7] = [zlib.crc32(name.encode()) & 0xFFFF for name in batch.patch_id]
        codes = words.view(np.uint8)
        return codes, np.unpackbits(codes, axis=1).astype(np.float32) - 0.5


class ConstantEncoder(LabelEncoder):
    def encode(self, batch, modality):
        codes, floats = super().encode(batch, modality)
        return np.zeros_like(codes), floats


class KnownMethod(RegisteredMethod):
    """A method whose trained encoder reads labels and whose untrained encoder gives one code to all patches."""

    name = "<b>mine</b>"

    def load(self, bundle, device=None):
        return LabelEncoder()

    def untrained(self, bundle, seed=None, device=None):
        return ConstantEncoder()


KNOWN = KnownMethod()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    uri = str(tmp_path_factory.mktemp("evaluate") / "patches.lance")
    table = create_table(uri, PATCHES)
    table.insert(record_batch(list(synthetic_pairs(160, seed=1))))
    return TableRef(uri)


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    entry = MethodEntry((Task.ENCODE,), "tests.methods.test_evaluate:KNOWN")
    monkeypatch.setitem(METHODS, "<b>mine</b>", entry)
    history = [{"epoch": i, "step": i, "loss": 3.0 - i, "validation_loss": 4.0 - i} for i in range(3)]
    config = {"method": "<b>mine</b>", "seed": 0, "bands": {"s1": ["VV"], "s2": ["B02"]}}
    weights = {"w": torch.zeros(1)}
    return write_bundle(str(tmp_path), weights=weights, config=config, metrics={"history": history}, readme="")


def test_a_perfect_encoder_scores_one_and_the_baselines_what_they_must(bundle, data):
    measured = measure(bundle, data)
    facts = measured.facts
    assert (facts["query_split"], facts["gallery_split"], facts["queries"], facts["gallery"]) == (
        "validation",
        "test",
        40,
        40,
    )
    assert set(measured.measures) == {"trained", "trained_embedding", "untrained", "random"}
    assert set(measured.measures[TRAINED]) == {"s1_to_s1", "s1_to_s2", "s2_to_s1", "s2_to_s2"}
    for direction in ("s1_to_s2", "s2_to_s1"):
        assert measured.measures[TRAINED][direction]["partner_recall@10"] == 1
        assert measured.measures[TRAINED][direction]["tie_aware_partner_recall@10"] == 1
        # Constant codes: all distances tie, so rows 0..9 are found; by chance a partner is among them 10 times of 40.
        assert measured.measures[UNTRAINED][direction]["partner_recall@10"] == pytest.approx(0.25)
        assert measured.measures[UNTRAINED][direction]["tie_aware_partner_recall@10"] == pytest.approx(0.25)
        exact = {name: m[direction]["map_exact_archive@10"] for name, m in measured.measures.items()}
        assert exact[TRAINED] > 2 * max(exact[UNTRAINED], exact[RANDOM])
    assert "partner_recall@10" not in measured.measures[TRAINED]["s1_to_s1"]


def test_queries_are_validation_and_the_gallery_is_test(bundle, data):
    """The measures of constant codes follow from the splits' labels alone."""
    measured = measure(bundle, data)
    masks = measured.metadata.column("label_mask").to_numpy()
    split = np.asarray(measured.metadata.column("split").to_pylist())
    archive, query = masks[split == "test"], masks[split == "validation"]
    first = np.broadcast_to(archive[:20], (len(query), 20))
    expected = retrieval_measures(query, first, archive, (5, 10, 20))
    got = measured.measures[UNTRAINED]["s1_to_s2"]
    assert {name: got[name] for name in expected} == pytest.approx(expected)


def test_files_and_the_flat_result(bundle, data, tmp_path):
    out = tmp_path / "evaluation"
    result = evaluate(bundle, data, k=7, out=str(out))
    assert result["partner_recall@7_s1_to_s2_trained"] == 1
    assert result["map_jaccard50_archive@7_s2_to_s1_random"] < 1
    assert result["patches"].endswith("@2")
    assert all(isinstance(value, str | int | float) for value in result.values())
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["facts"]["k"] == 7
    assert metrics["measures"]["trained"]["s1_to_s2"]["partner_recall@7"] == 1
    assert metrics["bits"]["s1"]["constant_bits"] > 0
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    with pytest.raises(UsageError, match="sealed"):
        evaluate(bundle, data, out=bundle.uri)


def test_the_report_is_self_contained_shows_pictures_and_escapes(bundle, data):
    measured = measure(bundle, data)
    hostile = dataclasses.replace(
        measured,
        metadata=measured.metadata.set_column(
            measured.metadata.column_names.index("country"),
            "country",
            [["<script>alert(1)</script>"] * measured.metadata.num_rows],
        ),
    )
    page = retrieval_report_html(hostile)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;b&gt;mine&lt;/b&gt;" in page
    assert not re.findall(r'(?:src|href)="(?!data:image/png;base64,)', page)
    assert not re.findall(r"url\((?!data:image/png;base64,|#band-[012]\))", page)
    # Per direction 5 queries with 6 hits each, and one plot of bits per sensor; the loss curve has a page of its own.
    assert page.count("--picture:url(data:image/png;base64,") == page.count('class="picture" role="img"') == 2 * 5 * 7
    assert page.count("<img ") == 2
    # The large picture shows each of its bands, by one filter per channel.
    for number, (radar, optical) in enumerate((("VV", "B04"), ("VH", "B03"), ("VV minus VH", "B02"))):
        assert page.count(f'<filter id="band-{number}"') == 1
        assert page.count(f'style="filter:url(#band-{number})"') == 2 * 5 * 7
        assert page.count(f"<figcaption>{radar}</figcaption>") + page.count(f"<figcaption>{optical}</figcaption>") == 70
    ids = re.findall(r'<code class="id">([^<]+)</code>', page)
    assert len(ids) == 2 * 5 * 7
    assert set(ids) <= set(measured.metadata.column("patch_id").to_pylist())
    assert page.count('<details class="card') == 2 * 5 * 7  # a click opens the large picture
    assert page.count("red B04, green B03, blue B02") == 5 + 5 * 6
    for colour in radar_colours().values():
        assert f'style="background:{colour}"' in page
    assert page.count('class="card query"') == 10
    assert page.count('class="card partner"') == 4  # both partner queries of both directions, in first place
    assert "validation split" in page
    assert "test split" in page


def test_no_figure_stands_twice(bundle, data):
    measured = measure(bundle, data)
    page = retrieval_report_html(measured)
    assert 'class="tile"' not in page
    plain, _, tied = page.partition("Expected over all orders of ties")  # other figures of the same measures
    rows = re.findall(r"<tr><td>([^<]+)</td>", plain)
    assert "partner recall@10" in re.findall(r"<tr><td>([^<]+)</td>", tied)
    assert "partner recall@10" not in rows  # the comparison has it as a column
    assert "ndcg@10" not in rows
    assert any("@10" in row for row in rows)


def test_the_curve_of_epochs_is_left_to_its_own_page(bundle, data):
    page = retrieval_report_html(measure(bundle, data))
    assert "curve.csv of the bundle" in page
    assert "Loss per" not in page


def test_ties_are_explained_only_where_hits_tie():
    assert tie_note([[0, 3, 5], [1, 2, 9]], 64, "their patch ids") == ""
    some = tie_note([[0, 3, 3], [1, 2, 9], [0, 0, 0]], 64, "their patch ids")
    assert "In 2 of 3 answers hits tie: codes of 64 bits" in some
    assert "in the order of their patch ids" in some
    assert "In 1 of them every shown hit has the distance 0" in some
    assert "every shown hit" not in tie_note([[2, 2]], 64, "their rows")


def test_worse_embeddings_are_named_where_they_are(bundle, data):
    measured = measure(bundle, data)
    assert "Embeddings are worse" not in retrieval_report_html(with_embedding(measured, 2.0))
    page = retrieval_report_html(with_embedding(measured, 0.5))
    assert "Embeddings are worse than codes here: radar → optical (partner recall@10)." in page


def with_embedding(measured, factor):
    """The evaluation with embeddings that equal the codes but for the partner recall from radar to optical."""
    codes = {direction: dict(values) for direction, values in measured.measures[TRAINED].items()}
    codes["s1_to_s2"]["partner_recall@10"] *= factor
    return dataclasses.replace(measured, measures={**measured.measures, EMBEDDING: codes})


def test_without_history_the_report_says_so(bundle, data):
    assert "no history" in retrieval_report_html(dataclasses.replace(measure(bundle, data), history=[]))


def test_an_empty_split_is_refused(bundle, tmp_path):
    table = create_table(str(tmp_path / "t.lance"), PATCHES)
    table.insert(record_batch([p for p in synthetic_pairs(20, seed=1) if p.meta.split != "test"]))
    with pytest.raises(UsageError, match="0 of them"):
        evaluate(bundle, TableRef(str(tmp_path / "t.lance")))
