"""``eoforge annotate``: a session by files, from the first batch to the bundle."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import lance
import pyarrow.parquet as pq
import pytest

from eoforge.cli.root import main
from eoforge.data.records import record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.data.tables.schema import PATCHES

SETTINGS = ["size=40", "width=8", "bits=16", "hidden=16", "bootstrap=6", "batch=4", "rounds=1", "epochs=2"]


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("patches") / "patches.lance")
    lance.write_dataset(record_batch(tuple(synthetic_pairs(24, seed=2))), uri, schema=PATCHES)
    return uri


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def call(*args: str) -> dict:
        code = main(["annotate", *args, "--json"])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        return json.loads(printed.out)

    return call


def answer(path: Path, word: str) -> list[list[str]]:
    """Writes an answer into every row of an exported file."""
    rows = list(csv.reader(path.open()))
    rows[1:] = [[*row[:2], word] for row in rows[1:]]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return rows


def test_a_session_by_files(patches: str, tmp_path: Path, run, capsys: pytest.CaptureFixture[str]) -> None:
    session, sheet = str(tmp_path / "session"), tmp_path / "open.csv"
    begin = ["start", session, *SETTINGS, "--data", patches]
    made = run(*begin)
    assert (made["state"], made["iteration"], made["open"], made["remaining"]) == ("answering", 0, 6, 10)
    assert run(*begin) == made
    assert main(["annotate", "next", session, "--json"]) == 1
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["error"]["reason"] == "WRONG_STATE"

    assert run("export", session, str(sheet), "--what", "open")["pairs"] == 6
    assert run("import", session, str(sheet), "--annotator", "ana")["stored"] == 0  # no answers yet
    answer(sheet, "Similar")
    done = run("import", session, str(sheet), "--annotator", "ana")
    assert (done["stored"], done["state"], done["annotators"]) == (6, "ready", {"ana": 6})
    assert run("import", session, str(sheet), "--annotator", "ana")["stored"] == 0

    assert run("next", session)["iteration"] == 1
    assert run("export", session, str(tmp_path / "runs"), "--what", "bundle")["bundle"].startswith(str(tmp_path))
    run("export", session, str(sheet), "--what", "open")
    answer(sheet, "dissimilar")
    run("import", session, str(sheet), "--annotator", "bo")
    final = run("next", session)
    assert (final["state"], final["remaining"], final["answered"]) == ("finished", 0, 10)
    assert (Path(final["bundle"]) / "manifest.json").is_file()
    shown = run("status", session)
    assert [one["iteration"] for one in shown["rounds"]] == [0, 1, 2]
    assert shown["rounds"][1]["gain"] == pytest.approx(shown["rounds"][1]["score"] - shown["rounds"][0]["score"])

    assert run("export", session, str(tmp_path / "all.parquet"))["annotations"] == 10
    table = pq.read_table(tmp_path / "all.parquet")
    wanted = {"first", "second", "answer", "who", "when", "seconds", "iteration", "model"}
    assert wanted <= set(table.column_names)
    assert run("export", session, str(tmp_path / "all.csv"))["annotations"] == 10
    assert len(list(csv.reader((tmp_path / "all.csv").open()))) == 11


def test_bad_files_are_refused_by_line(patches: str, tmp_path: Path, run, capsys: pytest.CaptureFixture[str]) -> None:
    session, sheet = str(tmp_path / "session"), tmp_path / "open.csv"
    run("start", session, *SETTINGS, "--data", patches)
    run("export", session, str(sheet), "--what", "open")
    good = answer(sheet, "skip")
    for rows, says in (
        ([["a", "b"]], "needs the columns"),
        ([good[0], [*good[1][:2], "maybe"]], "line 2"),
        ([good[0], good[1], ["x", "y", "similar"]], "line 3"),
        ([good[0], ["x", "x", "similar"]], "two different patches"),
        ([[*good[0], "seconds"], [*good[1], "soon"]], "line 2"),
        ([[*good[0], "seconds"], [*good[1], "nan"]], "line 2"),
        ([good[0], [*good[1], "a cell too many"]], "line 2"),
        ([good[0], ["a" * 200_000, "b", "skip"]], "field larger"),
    ):
        with sheet.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        assert main(["annotate", "import", session, str(sheet), "--annotator", "ana", "--json"]) == 2
        assert says in json.loads(capsys.readouterr().err.splitlines()[-1])["error"]["message"]
    sheet.write_bytes(b"\xff\xfe")
    assert main(["annotate", "import", session, str(sheet), "--annotator", "ana", "--json"]) == 2
    capsys.readouterr()
    assert main(["annotate", "import", session, str(tmp_path / "no.csv"), "--annotator", "ana", "--json"]) == 1
    capsys.readouterr()
    assert main(["annotate", "export", session, str(tmp_path / "x.json"), "--json"]) == 2
    capsys.readouterr()
    assert run("status", session)["answered"] == 0
    assert main(["annotate", "status", str(tmp_path / "nowhere"), "--json"]) == 1
