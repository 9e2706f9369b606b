"""A small session whose first batch is given, and a patches table without pixels for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import lance
import pyarrow as pa
import pytest

from eoforge.methods.anneal.annotations import Pair
from eoforge.methods.anneal.config import Config
from eoforge.methods.anneal.round_files import Round
from eoforge.methods.anneal.sessions import AnnotationSession
from eoforge.storage.addresses import TableRef

NAMES = [f"p{number}" for number in range(8)]
PAIRS = tuple(Pair.of("p0", name) for name in NAMES[1:5])


@pytest.fixture(scope="session")
def names(tmp_path_factory: pytest.TempPathFactory) -> TableRef:
    """A table of eight names: a session reads no pixels."""
    uri = tmp_path_factory.mktemp("names") / "patches.lance"
    lance.write_dataset(pa.table({"patch_id": NAMES}), str(uri))
    return TableRef(str(uri))


@pytest.fixture
def start(names: TableRef, tmp_path: Path) -> Callable[..., AnnotationSession]:
    """A session with a budget of eight decisions and a first batch of four pairs."""

    def make(address: str = "", **settings: float) -> AnnotationSession:
        config = replace(Config.tiny(), bootstrap=4, batch=2, rounds=2)
        session = AnnotationSession.create(address or str(tmp_path / "session"), names, config, **settings)
        session.add_round(Round(0, PAIRS))
        return session

    return make
