"""``eoforge eval`` of a codec that can be searched: what the command writes, and that its figures hang together."""

from __future__ import annotations

import json
from pathlib import Path

import lance
import pytest

from eoforge.cli import main
from eoforge.data.records import record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.data.tables.schema import PATCHES
from tests.services.compression.fixtures import write_codec_bundle

SPLITS = ("train", "validation", "test")
_SAMPLES_PER_PIXEL = {"s1": 2.0, "s2": 80_000 / 120**2}


def test_a_codec_is_evaluated_by_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {split: [p for p in synthetic_pairs(40, seed=6) if p.meta.split == split] for split in SPLITS}
    pairs = tuple(pair for split in SPLITS for pair in found[split][:2])
    uri = str(tmp_path / "patches.lance")
    lance.write_dataset(record_batch(pairs), uri, schema=PATCHES)
    bundle = write_codec_bundle(str(tmp_path / "runs"), pairs, {"uri": uri, "version": 1})
    out = tmp_path / "evaluation"
    assert main(["eval", bundle.uri, "--data", uri, "-k", "2", "--out", str(out), "--json"]) == 0
    assert {p.name for p in out.iterdir()} >= {"report.html", "metrics.json", "compression.html", "compression.json"}
    assert "JPEG" in (out / "compression.html").read_text().upper()

    measured = json.loads((out / "compression.json").read_text())
    assert set(measured["ladder"]) == set(measured["baselines"]) == {"s1", "s2"}
    for modality, rows in measured["ladder"].items():
        assert len(rows) == 8
        assert [row["bpp"] for row in rows] == sorted(row["bpp"] for row in rows), "better quality, more bits"
        for row in rows:
            assert row["bpppb"] == pytest.approx(row["bpp"] / _SAMPLES_PER_PIXEL[modality])
            assert 0 < row["ms_ssim"] <= 1
        assert rows[-1]["rmse"] < rows[0]["rmse"]
    assert {"psnr_10000", "psnr_65535", "spectral_angle_degrees"} <= set(measured["ladder"]["s2"][0])
    assert {"jpeg2000", "jpeg2000-klt", "jpeg-xl", "avif", "webp"} <= set(measured["baselines"]["s2"]["curves"])
    assert set(measured["baselines"]["s2"]["lossless_bpppb"]) == {"zstd", "jpeg-xl"}
    paths = measured["paths"]
    assert set(paths) == {"decode_then_encode", "from_latent", "stored"}
    assert all(row["milliseconds_per_query"] > 0 for row in paths.values())
