"""A bundle is complete or it does not exist, and what it holds is what was written."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest
import torch

from eoforge.bundle import (
    Bundle,
    code_revision,
    compare_bundles,
    format,
    list_bundles,
    load_bundle,
    model_card,
    read_epochs,
    read_steps,
    scalar_metrics,
    store_bundle,
    write_bundle,
)
from eoforge.errors import BundleError, ConflictError, LimitExceeded, NotFound, UsageError

WEIGHTS = {"a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.tensor([7], dtype=torch.int64)}


def write(parent: Path | str, **changes: Any) -> Bundle:
    arguments: dict[str, Any] = {
        "weights": WEIGHTS,
        "config": {"method": "m"},
        "metrics": {"loss": [1.0, 0.5]},
        "readme": "# m\n",
    }
    return write_bundle(str(parent), **{**arguments, **changes})


def test_round_trip(tmp_path: Path) -> None:
    written = write(tmp_path, extra_files={"curve.csv": b"step,loss\n"})
    loaded = load_bundle(written.uri)
    assert loaded == written
    assert loaded.config == {"method": "m"}
    assert loaded.metrics == {"loss": [1.0, 0.5]}
    assert loaded.read("curve.csv") == b"step,loss\n"
    tensors = loaded.weights()
    assert tensors.keys() == WEIGHTS.keys()
    assert all(torch.equal(tensors[k], WEIGHTS[k]) and tensors[k].dtype == WEIGHTS[k].dtype for k in WEIGHTS)
    assert written.uri.endswith(f"/m-{written.short_id}")


@pytest.mark.s3
def test_round_trip_on_s3(s3: str) -> None:
    written = write(s3)
    assert load_bundle(written.uri) == written
    assert torch.equal(load_bundle(written.uri).weights()["b"], WEIGHTS["b"])


def test_views_and_shared_tensors_are_stored_as_they_look(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    loaded = write(tmp_path, weights={"t": base.T, "same": base, "again": base}).weights()
    assert torch.equal(loaded["t"], base.T)
    assert torch.equal(loaded["again"], base)


def test_writing_the_same_again_is_harmless_and_another_is_refused(tmp_path: Path) -> None:
    first = write(tmp_path, name="run")
    assert write(tmp_path, name="run") == first
    with pytest.raises(ConflictError, match="another bundle"):
        write(tmp_path, name="run", metrics={"loss": [2.0]})
    assert load_bundle(first.uri) == first


def test_without_manifest_there_is_no_bundle(tmp_path: Path) -> None:
    written = write(tmp_path)
    (Path(written.uri) / "manifest.json").unlink()
    with pytest.raises(NotFound, match="written last"):
        load_bundle(written.uri)
    with pytest.raises(NotFound):
        load_bundle(str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


def test_a_crash_before_the_manifest_is_repaired_by_the_next_writer(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"half": ')
    assert write(tmp_path, name="run").config == {"method": "m"}


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json", "metrics.json", "README.md"])
def test_one_changed_byte_anywhere_is_found(tmp_path: Path, name: str) -> None:
    path = Path(write(tmp_path).uri) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(BundleError, match="sha256"):
        load_bundle(str(path.parent))


def test_missing_unknown_and_grown_files_are_refused(tmp_path: Path) -> None:
    original = Path(write(tmp_path).uri)

    def damaged(name: str) -> Path:
        return Path(shutil.copytree(original, tmp_path / name))

    missing = damaged("missing")
    (missing / "config.json").unlink()
    with pytest.raises(BundleError, match="missing"):
        load_bundle(str(missing))
    unknown = damaged("unknown")
    (unknown / "code.pkl").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"does not name: code\.pkl"):
        load_bundle(str(unknown))
    grown = damaged("grown")
    with (grown / "metrics.json").open("ab") as file:
        file.write(b" ")
    with pytest.raises(BundleError, match="its manifest says"):
        load_bundle(str(grown))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.update(format=2), "format 2"),
        (lambda m: m["files"].pop("config.json"), r"does not name config\.json"),
        (lambda m: m["files"].update({"../secret": m["files"]["README.md"]}), "plain file name"),
        (lambda m: m["files"]["README.md"].update(sha256="zz"), "sha256"),
        (lambda m: m["files"]["weights.safetensors"].update(bytes=1 << 60), "at most"),
        (lambda m: m["files"]["README.md"].update(bytes=True), "sha256 and bytes"),
    ],
)
def test_a_manifest_that_lies_is_refused(tmp_path: Path, change: Any, says: str) -> None:
    path = Path(write(tmp_path).uri) / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=says):
        load_bundle(str(path.parent))


def test_limits_hold_before_anything_is_written_or_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = write(tmp_path)
    monkeypatch.setattr(format, "MAX_FILE_BYTES", 4)
    with pytest.raises(LimitExceeded):
        write(tmp_path, name="large")
    assert not (tmp_path / "large").exists()
    with pytest.raises(BundleError, match="at most 4 are read"):
        load_bundle(written.uri)


def test_names_and_values_that_cannot_be_kept_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="plain name"):
        write(tmp_path, extra_files={"a/b": b""})
    with pytest.raises(UsageError, match="plain name"):
        write(tmp_path, name="../run")
    with pytest.raises(UsageError, match="finite"):
        write(tmp_path, metrics={"loss": float("nan")})


def test_the_training_version_is_tagged(tmp_path: Path) -> None:
    table = str(tmp_path / "patches.lance")
    for value in range(3):
        lance.write_dataset(pa.table({"x": [value]}), table, mode="append" if value else "create")
    written = write(tmp_path, config={"method": "m", "patches": {"uri": table, "version": 2}})
    tags = lance.dataset(table).tags.list()
    assert tags[f"bundle-{written.short_id}"]["version"] == 2
    with pytest.raises(NotFound):
        write(tmp_path, name="lost", config={"patches": {"uri": table, "version": 9}})
    with pytest.raises(NotFound):
        load_bundle(str(tmp_path / "lost"))


def test_code_revision_names_the_commit() -> None:
    assert code_revision() not in ("", "unknown")


def test_a_bundle_from_parts_is_the_bundle_from_tensors(tmp_path: Path) -> None:
    """Both writers are one: the coordinator of a federation copies weights that it never holds as a whole."""
    written = write(tmp_path / "tensors")
    data = written.read("weights.safetensors")
    reads: list[int] = []

    def parts() -> Iterator[bytes]:
        reads.append(0)
        for start in range(0, len(data), 7):
            yield data[start : start + 7]

    stored = store_bundle(str(tmp_path / "parts"), parts, written.config, written.metrics, "# m\n")
    assert load_bundle(stored).id == written.id
    assert len(reads) == 2
    with pytest.raises(UsageError, match="plain name"):
        store_bundle(str(tmp_path), parts, {}, {}, "", "../run")


def test_a_model_card_has_the_sections_that_have_content() -> None:
    card = model_card(
        "m", "Purpose.", measured="Of nothing.", figures={"loss": 0.123456, "history": [1]}, silos={"a": 3}
    )
    assert card == (
        "# m\n\nPurpose.\n\n## Figures\n\nOf nothing. They say nothing about other archives.\n\n"
        "| figure | value |\n| --- | --- |\n| loss | 0.1235 |\n\n"
        "## Silos\n\n| silo | patches |\n| --- | --- |\n| a | 3 |\n"
    )
    full = model_card(
        "m", "", measured="", figures={}, trained_on="`t`", bands={"s1": ["VV", "VH"]}, settings={"seed": 0}
    )
    assert f"Trained on `t` by code revision `{code_revision()}`." in full
    assert "- s1: VV, VH\n" in full
    assert full.endswith("## Settings\n\n| setting | value |\n| --- | --- |\n| seed | 0 |\n")
    assert "## Figures" not in full


def trained(parent: Path | str, method: str, score: float, **changes: Any) -> Bundle:
    config = {"method": method}
    return write(parent, config=config, metrics={"loss": 1.0, "validation_score": score}, **changes)


@pytest.mark.parametrize("where", ["", "csmae/pretraining"])
def test_the_bundles_below_a_folder_are_listed_newest_first(store_uri: str, where: str) -> None:
    first = trained(f"{store_uri}/{where}" if where else store_uri, "csmae", 0.25)
    time.sleep(1.1)  # object stores keep times in seconds
    second = trained(store_uri, "ss_cm_rsir", 0.5)
    listed = list_bundles(store_uri)
    assert [(b.bundle, b.method, b.score, b.metric) for b in listed] == [
        (second.uri, "ss_cm_rsir", 0.5, "validation_score"),
        (first.uri, "csmae", 0.25, "validation_score"),
    ]
    assert listed[0].date > listed[1].date
    with pytest.raises(NotFound, match=f"2 bundles lie below it.*{second.uri}.*{first.uri}.*Name one"):
        load_bundle(store_uri)


def test_a_damaged_bundle_is_left_out_of_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = trained(tmp_path, "a", 0.5), trained(tmp_path, "b", 0.5)
    Path(bad.uri, "config.json").write_text("[]")
    assert [b.bundle for b in list_bundles(str(tmp_path))] == [good.uri]
    assert bad.uri in "".join(capsys.readouterr())
    assert [b.bundle for b in list_bundles(good.uri)] == [good.uri]
    assert list_bundles(str(tmp_path / "absent")) == []
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
    "metrics", ["[" * 100_000, '{"validation_score": ' + "9" * 400 + "}", '{"a": ' + "9" * 5000 + "}"]
)
def test_no_bundle_keeps_the_others_out_of_the_list(tmp_path: Path, metrics: str) -> None:
    good, bad = trained(tmp_path, "a", 0.5), trained(tmp_path, "b", 0.5)
    Path(bad.uri, "metrics.json").write_text(metrics)
    assert good.uri in [b.bundle for b in list_bundles(str(tmp_path))]


def test_numbers_that_no_float_holds_are_no_figures(tmp_path: Path) -> None:
    written = write(tmp_path, metrics={"a": 10**400, "b": 1, "history": [{"loss": 10**400}]})
    assert scalar_metrics(load_bundle(written.uri, weights=False).metrics) == {"b": 1.0}
    assert read_epochs(load_bundle(written.uri, weights=False))["loss"].tolist() == [float("inf")]


def test_figures_are_read_without_the_weights(tmp_path: Path) -> None:
    history = [{"epoch": 0, "loss": 2.0}, {"epoch": 1, "loss": 1.0, "validation_score": 0.5}]
    written = write(tmp_path, metrics={"history": history}, extra_files={"curve.csv": b"step,loss\n0,1.5\n1,0.5\n"})
    Path(written.uri, "weights.safetensors").write_bytes(b"x" * written.files["weights.safetensors"][1])
    light = load_bundle(written.uri, weights=False)
    assert read_steps(light)["loss"].tolist() == [1.5, 0.5]
    epochs = read_epochs(light)
    assert epochs["loss"].tolist() == [2.0, 1.0]
    assert [str(v) for v in epochs["validation_score"]] == ["nan", "0.5"]
    with pytest.raises(BundleError, match="sha256"):
        load_bundle(written.uri)
    with pytest.raises(BundleError, match="sha256"):
        light.weights()


@pytest.mark.parametrize("content", [b"step,loss\n0,high\n", b"step,loss\n0\n", b"\xff\xfe"])
def test_a_curve_of_other_things_than_numbers_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BundleError, match="no table of numbers"):
        read_steps(write(tmp_path, extra_files={"curve.csv": content}))


@pytest.mark.parametrize(
    "history", [[1, 2], [{"loss": "high"}], [{"loss": [1]}], "text", 5, [{f"loss {n}": 1.0} for n in range(300)]]
)
def test_a_history_of_other_things_than_numbers_is_refused(tmp_path: Path, history: Any) -> None:
    with pytest.raises(BundleError, match="no list of objects with numbers"):
        read_epochs(write(tmp_path, metrics={"history": history}))


def test_two_bundles_side_by_side(tmp_path: Path) -> None:
    config = {"method": "m", "config": {"bits": 64, "lr": 0.1}, "bands": {"s1": ["VV"]}}
    first = write(tmp_path, config=config, metrics={"loss": 1.0, "only": 2, "name": "x"})
    second = write(
        tmp_path, config={**config, "config": {"bits": 32, "lr": 0.1}, "seed": 1}, metrics={"loss": 0.5, "name": "y"}
    )
    found = compare_bundles(first, second)
    assert found.settings == [("config.bits", "64", "32"), ("seed", "not set", "1")]
    assert found.metrics == [("loss", 1.0, 0.5), ("only", 2.0, None)]
