"""The notebooks, executed from the first cell to the last on a small synthetic archive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
SMALL = {"PATCHES": "120", "EPOCHS": "2", "ROUNDS": "2", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of all notebooks, as a reader has it: the first makes the table, the others go on with it."""
    return tmp_path_factory.mktemp("notebooks")


def executed(name: str, work: Path) -> list[Any]:
    """Results of the notebook's code cells: the text of their last expressions, None where there is none."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "a committed notebook holds no outputs"
    with pytest.MonkeyPatch.context() as patched:
        for variable, value in SMALL.items():
            patched.setenv(variable, value)
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(work)}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    results = [[o for o in cell.outputs if o.output_type == "execute_result"] for cell in cells]
    return [found[0]["data"]["text/plain"] if found else None for found in results]


@pytest.mark.slow
def test_archive_to_search_and_own_image(work: Path) -> None:
    _, scores, size, hits, picture = executed("archive_to_search", work)
    assert "validation_score" in scores
    assert size == "(120, ('s1', 's2'), 128)"
    assert len(hits.splitlines()) >= 6
    assert "Figure" in picture
    *_, near, across = executed("own_image", work)
    hits = eval(near)  # a list of tuples, as printed
    assert len(hits) == 5
    assert [hit[0] for hit in hits] == sorted(hit[0] for hit in hits)
    assert len(eval(across)) == 5


@pytest.mark.slow
def test_training_in_pytorch(work: Path) -> None:
    _, shapes, losses, figures = executed("train_in_pytorch", work)
    assert "torch.Size([16, 4, 120, 120])" in shapes
    assert "torch.Size([16, 10, 60, 60])" in shapes  # on one grid after the preparation
    first, last = eval(losses)
    assert last < first
    assert "macro" in figures


@pytest.mark.slow
def test_federated_run(work: Path) -> None:
    _, silos, curve, figures = executed("federated_run", work)
    assert len(eval(silos)) >= 2
    assert {line.split()[0] for line in curve.splitlines() if line[:1].isdigit()} == {"0", "1"}  # both rounds
    assert "traffic_" in figures
    assert "test_" in figures


def test_every_notebook_is_executed() -> None:
    assert {p.stem for p in FOLDER.glob("*.ipynb")} == {
        "archive_to_search",
        "own_image",
        "train_in_pytorch",
        "federated_run",
    }
