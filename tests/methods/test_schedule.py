"""Learning rates: the schedule of the released code of CSMAE, step by step."""

from __future__ import annotations

import math

import pytest

from eoforge.methods.csmae.config import Config
from eoforge.methods.schedule import relative_rate


def recurrence(steps: int, warmup: int) -> list[float]:
    """Rates of lightning-bolts' LinearWarmupCosineAnnealingLR with a peak of 1, by its chainable rule."""
    rates = [0.0]
    for step in range(1, steps):
        last = rates[-1]
        if step < warmup:
            rates.append(last + 1 / (warmup - 1))
        elif step == warmup:
            rates.append(1.0)
        else:
            now, before = (1 + math.cos(math.pi * (s - warmup) / (steps - warmup)) for s in (step, step - 1))
            rates.append(last * now / before)
    return rates


@pytest.mark.parametrize(("steps", "warmup"), [(60, 10), (12, 2), (9, 9), (200, 37)])
def test_rates_are_those_of_the_released_code(steps: int, warmup: int) -> None:
    rates = [relative_rate(step, steps, warmup) for step in range(steps)]
    assert rates == pytest.approx(recurrence(steps, warmup), abs=1e-12)
    assert rates[0] == 0
    assert max(rates) == rates[warmup - 1] == 1


def test_a_run_without_warm_up_starts_at_the_peak() -> None:
    assert [relative_rate(step, 4, 0) for step in range(4)] == pytest.approx([1, 0.853553, 0.5, 0.146447], abs=1e-6)
    assert relative_rate(0, 1, 1) == 1  # a warm-up of a single step would train nothing
    assert {relative_rate(step, 4, 0, "constant") for step in range(4)} == {1.0}
    assert [relative_rate(step, 9, 3, "constant") for step in range(5)] == [0, 0.5, 1, 1, 1]


def test_the_heads_of_the_paper_preset_are_those_of_da4dte() -> None:
    """AdamW(lr=1e-4) with torch's defaults for 25 epochs, and no scheduler."""
    heads = Config.paper().heads("bundle")
    assert (heads.epochs, heads.batch_size, heads.learning_rate) == (25, 128, 1e-4)
    assert (heads.weight_decay, heads.beta2) == (0.01, 0.999)
    assert (heads.warmup_epochs, heads.schedule) == (0.0, "constant")
    first = Config.paper().pretraining()
    assert (first.weight_decay, first.beta2, first.schedule) == (0.05, 0.95, "cosine")
