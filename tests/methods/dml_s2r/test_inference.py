"""Predictions: by the neighbours of phi, antisymmetry of f^d, COREG against a slow loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from eoforge.methods.dml_s2r import coreg
from eoforge.methods.dml_s2r.config import SYSTEMS, Config
from eoforge.methods.dml_s2r.inference import Neighbours, build

CONFIG = replace(Config.tiny(), hidden=8, embedding=6, neighbours=3)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def remembered(config: Config) -> Neighbours:
    inference = build(config, vector=5)
    assert isinstance(inference, Neighbours)
    known = drawn(9, 5, seed=1)
    with torch.no_grad():
        inference.remember(inference.encode(known), drawn(9, seed=2), torch.zeros(0, 6))
    return inference.eval()


@pytest.mark.parametrize("difference", ["pair", "single"])
def test_both_forms_of_the_difference_are_antisymmetric(difference: str) -> None:
    twin = build(replace(CONFIG, difference=difference), vector=5).twin
    a, b = drawn(4, 6), drawn(3, 6, seed=1)
    torch.testing.assert_close(twin.difference(a, b), -twin.difference(b, a).T)
    assert torch.equal(twin.difference(a, a).diagonal(), torch.zeros(4))


def test_the_single_form_alone_has_loops_without_a_remainder() -> None:
    a, b, c = (drawn(1, 6, seed=seed) for seed in range(3))
    remainder = {}
    for form in ("pair", "single"):
        f = build(replace(CONFIG, difference=form), vector=5).twin.difference
        remainder[form] = float((f(a, b) + f(b, c) + f(c, a)).detach().abs())
    assert remainder["single"] < 1e-6 < 1e-3 < remainder["pair"]


@pytest.mark.parametrize("weights", ["uniform", "softmin"])
@torch.no_grad()
def test_values_come_from_the_nearest_labelled_inputs(weights: str) -> None:
    inference = remembered(replace(CONFIG, weights=weights))
    inputs = drawn(4, 5, seed=3)
    found = inference.decide(inference.encode(inputs))
    for row, phi in enumerate(inference.encode(inputs)):
        unit = phi / phi.norm()
        distances = [float((unit - one / one.norm()).norm()) for one in inference.features]
        near = np.argsort(distances)[:3]
        estimates = [
            float(inference.values[i] + inference.twin.difference(phi[None], inference.features[i][None])) for i in near
        ]
        weight = np.ones(3) / 3
        if weights == "softmin":
            chosen = np.array([distances[i] for i in near])
            weight = np.exp(-chosen / chosen.mean())
            weight /= weight.sum()
        value = float(np.dot(weight, estimates))
        assert float(found.value[row]) == pytest.approx(value, abs=1e-5)
        spread = np.sqrt(np.dot(weight, (np.array(estimates) - value) ** 2))
        assert float(found.spread[row]) == pytest.approx(spread, abs=1e-5)


@torch.no_grad()
def test_labels_of_far_inputs_do_not_matter() -> None:
    inference = remembered(CONFIG)
    encoded = inference.encode(drawn(1, 5, seed=3))
    before = inference.decide(encoded).value
    near = set(inference.nearest(encoded)[1][0].tolist())
    assert len(near) == 3
    inference.values[[i for i in range(9) if i not in near]] = float("nan")
    assert torch.equal(inference.decide(encoded).value, before)


@pytest.mark.parametrize("system", SYSTEMS)
@torch.no_grad()
def test_what_was_remembered_is_loaded_again(system: str) -> None:
    config = replace(CONFIG, system=system)
    first, second = build(config, vector=5), build(replace(config, seed=1), vector=5)
    known, inputs = drawn(9, 5, seed=1), drawn(4, 5, seed=3)
    first.remember(first.encode(known), drawn(9, seed=2), first.encode(drawn(20, 5, seed=4)))
    second.load_state_dict(first.state_dict())
    first.eval(), second.eval()
    for ours, theirs in zip(*(one.decide(one.encode(inputs)) for one in (first, second)), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.shape == (4,)


def test_coreg_labels_what_lowers_the_error_of_its_teacher() -> None:
    known, values, pool = drawn(8, 2, seed=1), drawn(8, seed=2), drawn(12, 2, seed=3)
    for power in coreg.POWERS:
        labels = coreg.neighbour_mean(pool, known, values, power)
        gains = coreg._gains(pool, labels, known, values, power)
        for u in range(12):
            before, after, near = [], [], torch.cdist(pool[u][None], known, p=power)[0].argsort()[:3]
            larger, more = torch.cat([known, pool[u][None]]), torch.cat([values, labels[u][None]])
            for i in near:
                before.append(float(values[i] - coreg.neighbour_mean(known[i][None], known, values, power)) ** 2)
                after.append(float(values[i] - coreg.neighbour_mean(known[i][None], larger, more, power)) ** 2)
            assert float(gains[u]) == pytest.approx(sum(before) - sum(after), abs=1e-5)
    first, second = coreg.co_train(known, values, pool, seed=0)
    assert 8 <= len(first[1]) <= 20
    assert torch.equal(first[0][:8], known)
    assert torch.equal(second[1][:8], values)
    assert all(any(torch.equal(row, one) for one in pool) for row in first[0][8:])
