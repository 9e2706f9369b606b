"""The pipeline of active learning, run for real by kfp.local: one step at a time, nothing while people answer."""

from __future__ import annotations

from pathlib import Path

import lance
import pytest

from eoforge.data.records import record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.data.tables.schema import PATCHES
from eoforge.methods.anneal.sessions import AnnotationSession
from eoforge.storage.addresses import open_table
from pipelines.run_local import run_local

COUNT = 24
SETTINGS = ["size=40", "width=8", "bits=16", "hidden=16", "bootstrap=6", "batch=4", "rounds=1", "epochs=2"]


@pytest.mark.slow
def test_a_session_goes_on_from_run_to_run(tmp_path: Path) -> None:
    patches, session, codes = (str(tmp_path / name) for name in ("patches.lance", "session", "codes.lance"))
    lance.write_dataset(record_batch(tuple(synthetic_pairs(COUNT, seed=2))), patches, schema=PATCHES)
    params = {"session": session, "table": patches, "codes": codes, "preset": "tiny", "overrides": SETTINGS}

    def step() -> AnnotationSession:
        run_local("active_learning", tmp_path / "kfp", params)
        return AnnotationSession.open(session)

    def answers(opened: AnnotationSession, count: int) -> None:
        for number, pair in enumerate(opened.batch("ana")[:count]):
            opened.answer(pair, ("similar", "dissimilar")[number % 2], "ana", 1.0, f"{pair.first}-{pair.second}")

    opened = step()
    assert opened.status().iteration == 0
    answers(opened, 6)
    opened = step()
    assert opened.status().iteration == 1
    answers(opened, 3)
    assert step().rounds() == opened.rounds()  # one pair is open: the run ends and changes nothing
    answers(opened, 1)
    assert opened.select_next().final
    assert not Path(codes).exists()
    step()
    assert open_table(codes).count_rows() == COUNT
