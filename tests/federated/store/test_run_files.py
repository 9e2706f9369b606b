"""Download sets follow the objects of the run; cleaning deletes only files that are not needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.federated.run.journal import Journal
from eoforge.federated.store.run_files import RunFiles
from eoforge.federated.strategies.fedavg import FedAvg
from eoforge.federated.strategy import SiloInfo
from eoforge.storage.objects import ObjectStore
from eoforge.storage.tensorfile import Array, Layout, Specs, TensorSpec


@dataclass(frozen=True)
class Half(FedAvg):
    """Silos get one of two tensors, so the model is cut for them."""

    def download(self, silo: SiloInfo, state: Specs) -> Mapping[str, str]:
        return {"model/a": "model/a"}


def test_what_was_cut_before_the_round_was_reduced_is_not_offered_after(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        files = RunFiles(ObjectStore(str(tmp_path)), "r", pool)
        layout = Layout.of({name: TensorSpec((2,)) for name in ("a", "b")})
        run, seen = pb.Run(round=pb.Round(number=1)), []
        written: dict[object, str] = {}
        for value in (1.0, 2.0):

            def fill(wanted: Sequence[tuple[str, int, int]], value: float = value) -> list[Array]:
                return [np.full(stop - start, value, np.float32) for _, start, stop in wanted]

            run.objects["model"] = files.chunks.write(layout, fill, pool)
            objects, digest = files.download_set(run, Half(), SiloInfo("s", 1), written)["model"]
            seen.append(float(objects.open(digest).read("a", 0, 1)[0]))
    assert seen == [1.0, 2.0]


@pytest.mark.parametrize(("taken", "kept"), [(True, True), (False, False)])
def test_a_coordinator_held_up_while_it_cleans_deletes_nothing_of_its_successor(
    tmp_path: Path, taken: bool, kept: bool
) -> None:
    """Its state is old by then: the models that the other one has made since are in no list of its own."""
    store = ObjectStore(str(tmp_path))
    journal = Journal(store, "r")
    with ThreadPoolExecutor(1) as pool:
        files = RunFiles(store, "r", pool)

        def model(value: float) -> str:
            layout = Layout.of({"a": TensorSpec((2,))})
            return files.chunks.write(layout, lambda _: [np.full(2, value, np.float32)], pool)

        journal.append(pb.RunEvent(created=pb.Created(run_id="r", model=model(0.0))), "alice")
        journal.take("one")
        before = pb.Run()
        before.CopyFrom(journal.run)
        other = Journal(store, "r")
        if taken:
            other.take("two")
        else:
            other.load()
            other.append(pb.RunEvent(dropped=pb.Dropped(silo="a")), "a")  # of the same term: nobody else acts
        digest = model(1.0)
        assert files.collect(before) == (0 if kept else 2)
    assert (digest in files.chunks.announced()) == kept
