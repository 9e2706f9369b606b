"""The claims of RS-JCIF on a small run, and the consistency of streams, codes and bundles."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eoforge.bundle import Bundle, load_bundle, write_bundle
from eoforge.codec.container import LIMITS, inspect
from eoforge.codec.learned.streams import stored_codes
from eoforge.codec.raster import from_batch
from eoforge.data.loading.batch import PatchBatch
from eoforge.data.loading.loader import PatchLoader
from eoforge.errors import BundleError, DataRefused, UsageError
from eoforge.index.build import build_index
from eoforge.methods import get_method
from eoforge.methods.rs_jcif.config import Config
from eoforge.methods.rs_jcif.evaluate import ladder
from eoforge.methods.rs_jcif.learner import CompressionLearner, JointLearner, rate_distortion
from eoforge.methods.rs_jcif.loss import Keys, hash_terms
from eoforge.methods.rs_jcif.method import COMPRESSION, METHOD, load_codec
from eoforge.methods.rs_jcif.paths import query_paths
from eoforge.methods.rs_jcif.split import read_split
from eoforge.methods.rs_jcif.windows import mirrored, window
from eoforge.storage.addresses import TableRef
from tests.methods.conftest import SMALL as OTHER_METHOD
from tests.methods.test_ss_cm_rsir import drawn_batch
from tests.methods.train_worker import killed_after

SMALL = {
    "channels": "6",
    "latent": "32",
    "hyper": "6",
    "bits": "32",
    "hash_hidden": "24",
    "crop": "60",
    "epochs": "1",
    "batch_size": "8",
    "joint_epochs": "2",
    "joint_batch_size": "16",
}
"""Overrides of the tiny preset with which a run takes seconds."""
CONFIG = METHOD.config("tiny", SMALL)
QUALITY = 3.0

GOLDEN_COMPRESSION = (367.234, 347.027, 424.414, 623.602, 1137.419, 1205.11, 742.257, 401.939, 890.315, 943.488)
GOLDEN_JOINT = (377.68, 357.596, 435.043, 631.382, 1142.963, 1214.949, 751.425, 409.749, 896.857, 947.569)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("rs_jcif"))


@pytest.fixture(scope="module")
def bundle(table: TableRef, home: str) -> Bundle:
    return METHOD.train(table, home, CONFIG)


@pytest.fixture(scope="module")
def batch(table: TableRef) -> PatchBatch:
    return next(iter(PatchLoader(table, batch_size=12)))


def fresh(config: Config, kind: type[CompressionLearner] = CompressionLearner, **values: Any) -> CompressionLearner:
    from eoforge.codec.learned.model import Codec

    bands = {b: (-15.0, 5.0) if m == "s1" else (1500.0, 1000.0) for m, names in config.bands.items() for b in names}
    codec = Codec(config.codec(bands))
    codec.initialise(drawn_batch())
    stage = config.joint("test", values.pop("tasks", "both")) if kind is JointLearner else config
    return kind(stage, codec, **values)  # type: ignore[arg-type]  # each kind takes its own settings


def labelled(batch: PatchBatch) -> PatchBatch:
    masks = torch.tensor([1 << i % 5 | 1 << i % 3 for i in range(len(batch))])
    return dataclasses.replace(batch, label_mask=masks)


def curve_of(learner: CompressionLearner, batch: PatchBatch, steps: int, rate: float = 1e-3) -> list[float]:
    optimizer = torch.optim.AdamW(learner.parameter_groups(), lr=rate)
    curve = []
    for step in range(steps):
        torch.manual_seed(step)
        terms = learner.losses(batch, epoch=0)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        curve.append(float(terms["loss"].detach()))
    return curve


def test_golden_curves_of_ten_steps() -> None:
    # Written by this code; the tolerance covers threads and instruction sets over ten steps.
    batch = labelled(drawn_batch())
    assert curve_of(fresh(CONFIG), batch, 10) == pytest.approx(GOLDEN_COMPRESSION, rel=5e-3)
    assert curve_of(fresh(CONFIG, JointLearner), batch, 10) == pytest.approx(GOLDEN_JOINT, rel=5e-3)


def test_higher_quality_has_more_bits_and_less_error(bundle: Bundle, table: TableRef) -> None:
    split = read_split(table, "test", 8)
    for modality in ("s1", "s2"):
        rows = ladder(load_codec(bundle, "cpu"), split, modality, range(0, 8, 2))
        for name, rising in (("bpp", True), ("payload_bpppb", True), ("rmse", False)):
            values = [row[name] for row in rows]
            assert values == sorted(values, reverse=not rising), name
        streams = load_codec(bundle, "cpu").compress(split.rasters(modality), 2.0)
        assert rows[1]["bpp"] == pytest.approx(8 * sum(map(len, streams)) / 8 / 120**2)
        samples = {"s1": 2 * 120**2, "s2": 4 * 120**2 + 6 * 60**2 + 2 * 20**2}[modality]
        assert rows[1]["bpppb"] == pytest.approx(rows[1]["bpp"] * 120**2 / samples)


def test_the_code_of_the_latent_is_the_stored_one_and_the_index_s(bundle: Bundle, batch: PatchBatch) -> None:
    codec, encoder = load_codec(bundle, "cpu"), METHOD.load(bundle, "cpu")
    for modality in ("s1", "s2"):
        streams = codec.compress(from_batch(batch, (modality,)), QUALITY)
        stored = np.concatenate([stored_codes(stream, LIMITS)[modality] for stream in streams])
        assert np.array_equal(codec.hash_stream(streams, modality), stored)
        codes, embeddings = encoder.encode(batch, modality)
        assert np.array_equal(codes, stored)  # the same batch through the same floats; afterwards all is integers
        assert embeddings.shape == (len(batch), encoder.embedding_dim)
        assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
        assert np.array_equal(np.unpackbits(codes, axis=1, bitorder="little"), embeddings > 0)
        assert inspect(streams[0]).bundle == bundle.short_id


def bright_or_dark(batch: PatchBatch) -> torch.Tensor:
    """Kind of the drawn patches, bool ``[B]``, equal for both sensors and for every window or flip."""
    level = batch.s2_10m.float().mean(dim=(1, 2, 3))
    return level > level.median()


def alike_and_unlike(learner: CompressionLearner, batch: PatchBatch, kind: torch.Tensor) -> tuple[float, float]:
    """Mean cosine between optical and radar outputs of patches of the same and of different kinds ``[B]``."""
    learner.eval()
    with torch.no_grad():
        logits = learner._scored(batch)[1]
    first, second = (torch.nn.functional.normalize(logits[m].tanh(), dim=1) for m in ("s2", "s1"))
    cosine, same = first @ second.T, kind[:, None] == kind[None, :]
    return float(cosine[same].mean()), float(cosine[~same].mean())


def test_labels_bring_codes_of_both_sensors_together() -> None:
    batch = drawn_batch()
    bright = bright_or_dark(batch)
    batch = dataclasses.replace(batch, label_mask=torch.where(bright, 1, 2))
    learner = fresh(CONFIG, JointLearner, tasks="hash")
    curve_of(learner, batch, 80, rate=1e-2)
    alike, unlike = alike_and_unlike(learner, batch, bright)
    assert alike > unlike + 0.3


def test_searching_from_the_latent_costs_less_than_decoding(bundle: Bundle, table: TableRef) -> None:
    queries, gallery = read_split(table, "validation", 4), read_split(table, "test", 8)
    codec = load_codec(bundle, "cpu")
    paths = query_paths(codec, queries, gallery, QUALITY, separate=codec)
    assert paths["from_latent"]["map@10"] == paths["stored"]["map@10"]
    assert set(paths) == {"decode_then_encode", "decode_then_separate", "from_latent", "stored"}
    # The work of a path, not its time: no synthesis runs between the latent and the code.
    called: list[str] = []
    for name, module in codec.named_modules():
        if name.endswith(("synthesis", "analysis")):
            module.register_forward_hook(lambda *_, n=name: called.append(n))
    streams = codec.compress(queries.rasters("s2"), QUALITY)
    called.clear()
    codec.hash_stream(streams)
    assert not called
    codec.decompress(streams)
    assert called == ["branches.s2.synthesis"]


def test_the_first_stage_does_not_train_the_hash_module(table: TableRef, bundle: Bundle, home: str) -> None:
    (first,) = [load_bundle(str(p.parent)) for p in Path(home, "compression").glob("*/manifest.json")]
    assert (first.config["method"], bundle.config["compression"]) == (COMPRESSION, first.id)
    steps = list(csv.DictReader(io.StringIO(first.read("curve.csv").decode())))
    assert {"bpp_s1", "bpp_s2", "mse_s2"} <= steps[0].keys()
    assert "hash" not in steps[0]
    joint = list(csv.DictReader(io.StringIO(bundle.read("curve.csv").decode())))
    terms = {"compression", "hash", "pair", "quantisation", "balance_bits", "classification", "gradient_cosine_s1"}
    assert terms <= joint[0].keys()
    with pytest.raises(BundleError, match="rs_jcif-compression"):
        METHOD.load(first)
    assert load_codec(first, "cpu").config.bits == 32  # it compresses without trained codes


def test_only_the_analysis_and_the_gains_are_shared() -> None:
    learner = fresh(CONFIG, JointLearner)
    assert isinstance(learner, JointLearner)
    shared, (compression, hashing) = learner.weights()
    names = {id(p): n for n, p in learner.named_parameters()}
    assert set(shared) == {"s1", "s2"}
    for modality, weights in shared.items():
        parts = {tuple(names[id(p)].split(".")[2:4]) for p in weights}
        assert parts == {(modality, part) for part in ("analysis", "log_gain", "log_inverse")}
    assert {names[id(p)].split(".")[3] for p in compression} >= {"synthesis", "hyper_encoder", "hyper_decoder", "prior"}
    assert {names[id(p)].split(".")[0] for p in hashing} == {"codec", "classifier"}
    assert len([*shared["s1"], *shared["s2"], *compression, *hashing]) == len(list(learner.parameters()))
    learner.losses(labelled(drawn_batch()), 0)["loss"].backward()
    assert all(p.grad is not None for p in learner.parameters())


def test_a_run_for_codes_alone_leaves_synthesis_and_entropy_model_as_they_were(bundle: Bundle) -> None:
    learner = fresh(CONFIG, JointLearner, tasks="hash")
    learner.losses(labelled(drawn_batch()), 0)["loss"].backward()
    moved = {n.split(".")[3] for n, p in learner.codec.named_parameters(prefix="codec") if p.grad is not None}
    assert moved == {"analysis", "hash"}


def test_without_labels_codes_of_one_place_come_together() -> None:
    batch = drawn_batch()
    learner = fresh(dataclasses.replace(CONFIG, similarity="partner"), JointLearner, tasks="hash")
    before = alike_and_unlike(learner, batch, torch.arange(len(batch)))
    learner.train()
    curve_of(learner, batch, 40, rate=1e-2)
    assert "classification" not in learner.losses(batch, 0)
    alike, unlike = alike_and_unlike(learner, batch, torch.arange(len(batch)))
    assert alike - unlike > before[0] - before[1] + 0.2


def test_a_self_supervised_bundle_as_teacher(table: TableRef, runs: str) -> None:
    other = get_method("ss_cm_rsir")
    teacher = other.train(table, runs, other.config("tiny", {**OTHER_METHOD, "epochs": "1"}))
    config = METHOD.config("tiny", {**SMALL, "similarity": "teacher", "teacher": teacher.uri, "bank": "24"})
    taught = METHOD.train(table, runs, config)
    assert taught.metrics["validation_score"] < 0
    assert METHOD.load(taught, "cpu").bits == 32
    with pytest.raises(UsageError, match="needs teacher=BUNDLE"):
        METHOD.config("tiny", {"similarity": "teacher"})


def test_similarities_from_a_teacher() -> None:
    batch = drawn_batch()
    bright = bright_or_dark(batch)

    class Eye:
        embedding_dim = 2

        def encode(self, seen: PatchBatch, modality: str) -> tuple[Any, Any]:
            return np.zeros((len(seen), 1), np.uint8), np.eye(2, dtype=np.float32)[bright.long().numpy()]

    config = dataclasses.replace(CONFIG, similarity="teacher", teacher="file")
    learner = fresh(config, JointLearner, tasks="hash", teacher=Eye())
    curve_of(learner, batch, 80, rate=1e-2)
    alike, unlike = alike_and_unlike(learner, batch, bright)
    assert alike > unlike + 0.1


@torch.no_grad()
def test_rate_distortion_against_sums_over_samples(batch: PatchBatch) -> None:
    learner = fresh(CONFIG).eval()
    quality = torch.linspace(0, 7, len(batch))
    rates = rate_distortion(learner.codec, batch, quality, "s2")
    out = learner.codec(batch, quality, "s2")
    total, grids = 0.0, learner.codec.grids(batch, "s2")
    for i in range(len(batch)):
        bits = -sum(float(likelihood[i].double().log2().sum()) for likelihood in out.likelihoods.values())
        error = sum(float((out.x_hat[b][i].double() - grids[b][i].double()).square().sum()) for b in grids)
        scale = learner.codec.branch("s2").space_to_depth.scale
        total += bits / 14_400 + learner.codec.config.lambda_of(float(quality[i])) * error / 80_000 / scale**2
    assert float(rates.loss) == pytest.approx(total / len(batch), rel=1e-4)


def test_windows_and_mirrors_keep_the_grids_together(batch: PatchBatch) -> None:
    cut = window(batch, 12, 36, 60)
    assert torch.equal(cut.s2_10m, batch.s2_10m[:, :, 12:72, 36:96])
    assert torch.equal(cut.s2_60m, batch.s2_60m[:, :, 2:12, 6:16])
    flips = torch.arange(len(batch), dtype=torch.uint8) % 4
    turned = mirrored(batch, flips)
    for column in ("s2_10m", "s2_20m", "s2_60m", "s1"):
        before, after = getattr(batch, column).numpy(), getattr(turned, column).numpy()
        assert after.dtype == before.dtype
        assert np.array_equal(after[0], before[0])
        assert np.array_equal(after[1], before[1, :, :, ::-1])
        assert np.array_equal(after[2], before[2, :, ::-1])
        assert np.array_equal(after[3], before[3, :, ::-1, ::-1])


@pytest.mark.parametrize("steps", [2, 6])  # in the first stage, and in the second
def test_a_killed_and_resumed_run_equals_the_uninterrupted_one(
    table: TableRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    config = METHOD.config("tiny", {**SMALL, "bank": "40", "checkpoint_steps": "1"})
    whole = METHOD.train(table, str(tmp_path / "whole"), config)
    killed_after(steps, lambda: METHOD.train(table, str(tmp_path / "killed"), config), monkeypatch)
    resumed = METHOD.train(table, str(tmp_path / "killed"), config)
    want = whole.weights()
    assert all(torch.equal(w, want[n]) for n, w in resumed.weights().items())
    assert resumed.read("curve.csv") == whole.read("curve.csv")


def test_a_bundle_is_indexed_like_any_other(bundle: Bundle, table: TableRef, tmp_path: Path, batch: PatchBatch) -> None:
    encoder = METHOD.load(load_bundle(bundle.uri), "cpu")
    summary = build_index(bundle.uri, table, str(tmp_path / "codes.lance"), encoder)
    assert summary.added == 128
    again = METHOD.load(load_bundle(bundle.uri), "cpu")
    for modality in encoder.modalities:
        assert np.array_equal(encoder.encode(batch, modality)[0], again.encode(batch, modality)[0])
    with pytest.raises(UsageError, match="encodes s1, s2; got modality 's3'"):
        encoder.encode(batch, "s3")
    with pytest.raises(DataRefused, match="the batch does not have them"):
        encoder.encode(dataclasses.replace(batch, s1=None), "s1")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["bands"]["s2"].reverse(), "reads bands"),
        (lambda c: c.update(method="csmae"), "bundle of 'csmae'"),
        (lambda c: c["normalisation"].pop("B02"), "normalisation of B02"),
        (lambda c: c.update(bits=128), "says bits 128"),
        (lambda c: c["config"].update(latent=16), "do not fit"),
        (lambda c: c["config"].update(mystery=1), "unknown setting 'mystery'"),
    ],
)
def test_bundles_that_contradict_themselves_are_refused(tmp_path: Path, bundle: Bundle, change, says: str) -> None:
    config = json.loads(json.dumps(bundle.config))
    change(config)
    broken = write_bundle(str(tmp_path), weights=bundle.weights(), config=config, metrics={}, readme="")
    with pytest.raises(BundleError, match=says):
        METHOD.load(broken, "cpu")


def test_invalid_settings_are_refused() -> None:
    for key, value, says in (
        ("crop", "50", "multiple of 12"),
        ("steps", "4", "at least 8 steps"),
        ("bits", "20", "multiple of 8"),
        ("rule", "average", "pcgrad"),
        ("code_quality", "9", r"lie in 0\.\.7"),
        ("hash_weight", "0", "hash_weight must be greater than 0"),
    ):
        with pytest.raises(UsageError, match=says):
            METHOD.config("tiny", {key: value})
    with pytest.raises(UsageError, match="name bands of both"):
        METHOD.config("tiny", {"s1_bands": "", "similarity": "partner"})


def test_one_sensor_alone_and_any_bands(table: TableRef, runs: str, batch: PatchBatch) -> None:
    config = METHOD.config("tiny", {**SMALL, "s1_bands": "", "s2_bands": "B02,B08,B11", "joint_epochs": "1"})
    encoder = METHOD.load(METHOD.train(table, runs, config), "cpu")
    assert encoder.modalities == ("s2",)
    assert encoder.encode(batch, "s2")[0].shape == (len(batch), 4)


def test_both_sensors_of_a_place_are_alike_for_every_teacher() -> None:
    """A teacher whose features of the two sensors differ must not push the codes of one place apart."""
    config = dataclasses.replace(CONFIG, similarity="teacher", teacher="bundle", pair_form="cosine")
    signs = torch.ones(2, 32)
    signs[0, 16:], signs[1, ::2] = -1, -1  # the codes of the two places are orthogonal
    features = torch.eye(4).reshape(2, 2, 4)  # sensor, place: all four features are orthogonal
    keys = Keys(torch.zeros(2, dtype=torch.int64), features)
    alike = hash_terms({"s1": 9 * signs, "s2": 9 * signs}, None, keys, None, config)["pair"]
    assert float(alike) == pytest.approx(0.0, abs=1e-6)
    apart = hash_terms({"s1": 9 * signs, "s2": 9 * signs.flip(0)}, None, keys, None, config)["pair"]
    assert float(apart) == pytest.approx(8 / 16, abs=1e-5)  # of 16 pairs four are 0 for 1, four 1 for 0
