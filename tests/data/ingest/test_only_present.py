"""Metadata that name far more patches than there are files: a question before a plan, and ``--only-present``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eoforge.cli import main
from eoforge.data.archives.layout import MAIN_FILE
from eoforge.data.export.run import export
from eoforge.data.ingest.plan import plan_ingest
from eoforge.data.ingest.run import ingest
from eoforge.errors import DataRefused
from eoforge.storage.addresses import TableRef, join, open_table
from tests.data.archives.tar_support import pack
from tests.data.archives.test_folders_s3 import upload
from tests.data.ingest.ingest_support import archive_of

HERE, NAMED = 5, 1500


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five patches, and metadata that name 1,500."""
    folder = Path(archive_of(tmp_path_factory.mktemp("part"), HERE))
    table = pq.read_table(folder / MAIN_FILE)
    head = table["patch_id"][0].as_py().rsplit("_", 2)[0]
    rows = table.take(pa.array([n % HERE for n in range(NAMED)]))
    ids = [f"{head}_{n % 80:02d}_{10 + n // 80:02d}" for n in range(NAMED - HERE)]
    names = pa.chunked_array([pa.array([*table["patch_id"].to_pylist(), *ids])])
    pq.write_table(rows.set_column(0, table.schema.field(0), names), folder / MAIN_FILE)
    return folder


def test_a_part_of_the_archive_is_asked_about_and_taken(
    part: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = str(tmp_path / "patches.lance")
    assert main(["ingest", str(part), table, "--json"]) == 3
    message = json.loads(capsys.readouterr().err.splitlines()[-1])["error"]["message"]
    assert "the metadata name 1500 patches" in message
    assert "--only-present" in message
    assert list(tmp_path.iterdir()) == [], "nothing is planned"
    assert main(["ingest", str(part), table, "--only-present", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["patches_in"], summary["quarantined"]) == (HERE, 0)
    assert open_table(table).count_rows() == HERE


@pytest.mark.parametrize("kind", ["tar", "zst", "lmdb"])
def test_a_part_in_tars_or_an_lmdb(part: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EOFORGE_SCRATCH", str(tmp_path / "scratch"))
    table, whole, source = str(tmp_path / "t.lance"), tmp_path / "whole.lance", tmp_path / "source"
    if kind == "lmdb":
        ingest(str(part), str(whole), only_present=True)
        export(TableRef(str(whole)), str(source), "lmdb")
    else:
        pack(part, source, compressed=kind == "zst")
    shutil.copy(part / MAIN_FILE, source / MAIN_FILE)
    assert plan_ingest(str(source), table, only_present=True).rows == HERE


@pytest.mark.s3
def test_a_part_on_an_object_store(part: Path, s3: str) -> None:
    archive = upload(part, join(s3, "archive"))
    table = join(s3, "patches.lance")
    with pytest.raises(DataRefused, match="1500 patches"):
        plan_ingest(archive, table)
    assert plan_ingest(archive, table, only_present=True).rows == HERE


def test_metadata_without_any_patch_are_refused(part: Path, tmp_path: Path) -> None:
    shutil.copytree(part, tmp_path / "bare")
    shutil.rmtree(tmp_path / "bare" / "BigEarthNet-S2")
    with pytest.raises(DataRefused, match="none of the 1500 patches"):
        plan_ingest(str(tmp_path / "bare"), str(tmp_path / "t.lance"), only_present=True)


def test_real_metadata_beside_few_patches(shared_data: Path, tmp_path: Path) -> None:
    """The official metadata of half a million patches beside a sample: refused in seconds, taken on request."""
    for name in ("BigEarthNet-S1", "BigEarthNet-S2", "Reference_Maps"):
        (tmp_path / name).symlink_to(shared_data / "reben-sample-24" / name)
    (tmp_path / MAIN_FILE).symlink_to(shared_data / "reben-metadata" / MAIN_FILE)
    with pytest.raises(DataRefused, match=r"the metadata name 480038 patches, but \d of 100"):
        plan_ingest(str(tmp_path), str(tmp_path / "t.lance"))
    assert 0 < plan_ingest(str(tmp_path), str(tmp_path / "t.lance"), only_present=True).rows <= 24
