"""What the server computes from a round: sums without masks, whoever dropped out, and clipped sums with noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import DataRefused
from eoforge.federated.privacy import secagg
from eoforge.federated.privacy.dp import NoisySum
from eoforge.federated.privacy.policy import combiner
from eoforge.federated.reduce import Term
from eoforge.federated.strategy import Add
from tests.federated.privacy.test_secagg import round_of

SILOS, SIZE = ["a", "b", "c", "d"], 50


class Updates:
    """Updates of one tensor by silo."""

    def __init__(self, updates: dict[str, np.ndarray]) -> None:
        self.updates = updates

    def update(self, silo: str, name: str, start: int, stop: int) -> np.ndarray:
        return self.updates[silo][start:stop]


class Files:
    """The answers that survivors stored."""

    def __init__(self, answers: dict[str, pb.UnmaskAnswer]) -> None:
        self.answers = answers

    def get(self, number: int, name: str) -> bytes:
        return self.answers[name.removeprefix("_unmask/")].SerializeToString()


@pytest.mark.parametrize("dropped", [[], ["a"], ["b"], ["d"]])
def test_the_masked_sum_is_that_of_the_survivors(tmp_path: Path, dropped: list[str]) -> None:
    """Masks of pairs have opposite signs, so those of a silo in the middle show which way a lost one is taken out."""
    maskings, task, shares = round_of(tmp_path, SILOS, 3)
    rng = np.random.default_rng(3)
    plain = {silo: rng.standard_normal(SIZE).astype(np.float32) for silo in SILOS}
    sealed = [silo for silo in SILOS if silo not in dropped]
    sent = {silo: maskings[silo].mask({"delta/w": plain[silo]}, task, 0.25)["delta/w"] for silo in sealed}
    answers = {}
    for silo in sealed:
        mine = pb.Task()
        mine.CopyFrom(task)
        mine.shares.extend(s for answer in shares.values() for s in answer.shares if s.recipient == silo)
        mine.survivors.extend(sealed)
        answers[silo] = maskings[silo].unmask(mine)
    run = pb.Run(run_id="run")
    run.spec.privacy.secure_aggregation, run.spec.privacy.threshold = True, 3
    run.spec.data.max_update_norm = 100
    run.round.number = 1
    run.round.selected.extend(SILOS)
    run.round.sealed.extend(sealed)
    run.round.unmasked.extend(sealed)
    for silo in SILOS:
        run.round.mask_keys[silo].CopyFrom(task.mask_keys[silo])
    term = Term(Add("delta/w", 1.0, dict.fromkeys(sealed, 0.25)), 7, 31)
    (found,) = combiner(run, Files(answers))([term], Updates(sent))  # type: ignore[arg-type]
    np.testing.assert_allclose(found, sum(0.25 * plain[silo][7:31] for silo in sealed), atol=1e-6)


@pytest.mark.parametrize(("value", "taken"), [(0.49, True), (3.0, True), (4.1, False)])
def test_a_sum_beyond_what_all_silos_may_send_is_refused(value: float, taken: bool) -> None:
    """Bound 2 and shares 0.25 + 0.25 allow 1, and a step of rounding per silo."""
    words = {silo: secagg.encode(np.array([value]), 0.5, 24) for silo in ("x", "y")}
    total = secagg.MaskedSum([], 24, 2.0)
    term = Term(Add("delta/w", 1.0, {"x": 0.25, "y": 0.25}), 0, 1)
    if taken:
        np.testing.assert_allclose(total([term], Updates(words)), [[value]], atol=1e-6)  # type: ignore[arg-type]
    else:
        with pytest.raises(DataRefused, match="larger than all silos together"):
            total([term], Updates(words))  # type: ignore[arg-type]


def test_a_noisy_sum_clips_each_update_before_its_share() -> None:
    updates = {"big": np.full(SIZE, 3.0), "small": np.full(SIZE, 0.01)}
    norms = {silo: float(np.linalg.norm(x)) for silo, x in updates.items()}
    clip = NoisySum(b"k" * 32, 1, 0.0, 1.5, norms)
    (found,) = clip([Term(Add("delta/w", 1.0, {"big": 0.5, "small": 0.5}), 0, SIZE)], Updates(updates))  # type: ignore[arg-type]
    expected = 0.5 * updates["big"] * (1.5 / norms["big"]) + 0.5 * updates["small"]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
