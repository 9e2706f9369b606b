"""Refusals say what lies at an address that is no archive, and end with exit code 3."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eoforge.cli import main
from eoforge.data.archives.open import open_archive
from eoforge.errors import DataRefused
from tests.data.archives.archive_files import make_pair, write_archive

V1 = "S2A_MSIL2A_20170613T101031_26_57"
FOUND = {
    f"{V1}/{V1}_B02.tif": "this is BigEarthNet v1: its optical pixels differ",
    "EuroSAT_MS/SeaLake/SeaLake_3000.tif": "this is EuroSAT",
    "s2a/0000200/20200813T054639_20200813T054952_T43RCP/B8A.tif": "this is SSL4EO-S12",
    "S2L2A/199U/199U_1099R/product/B02.tif": "this is Major TOM",
    "S2A_MSIL2A_20170613.SAFE/MTD_MSIL2A.xml": "whole Sentinel products",
    "_versions/1.manifest": "this is a Lance table",
    "weights.safetensors": "this is a run bundle",
    "BigEarthNet-S2.tar.gz": "packed files of another kind",
    "deeper/BigEarthNet-S2/a/b/c.tif": "the archive is one level deeper: name .*/deeper;",
    "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP/x/x_B02.tif": "one of the folders of an archive",
    "a.jpg": r"found 1 files: 1 \.jpg",
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "data" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    with pytest.raises(DataRefused, match=FOUND[name]):
        open_archive(str(tmp_path / "data"))


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("bigearthnet-v1-sample", "this is BigEarthNet v1: its optical pixels differ"),
        ("bigearthnet-v1-sample/BigEarthNet-v1.0", "this is BigEarthNet v1: its optical pixels differ"),
        ("bigearthnet-v1-sample/BigEarthNet-S1-v1.0", "radar part of BigEarthNet v1"),
        ("eurosat-ms-sample", "this is EuroSAT"),
        ("eurosat-rgb-subset", "this is EuroSAT"),
        ("ssl4eo-s12-sample", "this is SSL4EO-S12"),
        ("major-tom-s2l2a-cell", "this is Major TOM"),
        ("reben-original-files/BigEarthNet-S2", "one of the folders of an archive"),
        ("reben-original-files", "found images without metadata"),
    ],
)
def test_real_data_of_others_are_named_with_exit_code_3(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: str, words: str
) -> None:
    assert main(["ingest", str(shared_data / folder), str(tmp_path / "t.lance"), "--json"]) == 3
    assert words in json.loads(capsys.readouterr().err.splitlines()[-1])["error"]["message"]
    assert list(tmp_path.iterdir()) == []


def test_an_archive_is_not_mistaken(tmp_path: Path) -> None:
    assert open_archive(str(write_archive(tmp_path / "archive", [make_pair(3, 4)]))).metadata()
