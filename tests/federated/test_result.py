"""The bundle of a finished run obeys the rules of every bundle."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.bundle import CARD, format, load_bundle
from eoforge.errors import ConflictError, LimitExceeded, UsageError
from eoforge.federated.result import write_result
from eoforge.federated.store.chunk_store import ChunkStore
from eoforge.storage.objects import ObjectStore
from eoforge.storage.tensorfile import Layout, TensorSpec


@pytest.fixture
def store(tmp_path: Path) -> ChunkStore:
    return ChunkStore(ObjectStore(str(tmp_path / "store")), "objects")


def finished_run(store: ChunkStore, run_id: str = "first", value: float = 1.0) -> pb.Run:
    with ThreadPoolExecutor(1) as pool:
        layout = Layout.of({"w": TensorSpec((3,))})
        digest = store.write(layout, lambda _: [np.full(3, value, np.float32)], pool)
    run = pb.Run(run_id=run_id, objects={"model": digest}, epsilon=2.5)
    run.spec.method, run.spec.strategy = "fl_rs", "fedavg"
    run.history.add(number=1, evaluation={"loss": 0.25}, silos=["a"])
    return run


def test_the_bundle_holds_the_model_and_a_card(store: ChunkStore, tmp_path: Path) -> None:
    bundle = load_bundle(write_result(store, finished_run(store), str(tmp_path / "bundles")))
    assert bundle.weights()["w"].tolist() == [1.0, 1.0, 1.0]
    assert bundle.metrics["loss"] == 0.25
    card = bundle.read(CARD).decode()
    assert card.startswith("# fl_rs, learned by federation\n\nRun `first`: 1 rounds of fedavg")
    assert "epsilon 2.5." in card
    assert "| loss | 0.25 |" in card


def test_what_no_reader_would_load_is_not_written(
    store: ChunkStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles = tmp_path / "bundles"
    with pytest.raises(UsageError, match="plain name"):
        write_result(store, finished_run(store, "../first"), str(bundles))
    monkeypatch.setattr(format, "MAX_WEIGHTS_BYTES", 8)
    with pytest.raises(LimitExceeded, match=r"weights\.safetensors"):
        write_result(store, finished_run(store), str(bundles))
    assert not list(tmp_path.rglob("weights.safetensors"))


def test_a_repeated_write_is_harmless_and_another_model_is_refused(store: ChunkStore, tmp_path: Path) -> None:
    run = finished_run(store)
    assert write_result(store, run, str(tmp_path / "b")) == write_result(store, run, str(tmp_path / "b"))
    with pytest.raises(ConflictError, match="another bundle"):
        write_result(store, finished_run(store, value=2.0), str(tmp_path / "b"))
