"""Networks of folds: what each sees, whose errors calibrate the intervals, and that the kept network is what it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from eoforge.methods.dml_s2r.config import Config
from eoforge.methods.dml_s2r.crossfit import CrossFit
from eoforge.methods.dml_s2r.labels import Labelled
from eoforge.methods.dml_s2r.vectors import fit_vectors

CONFIG = replace(Config.tiny(), target="y", batch_size=16, hidden=16, embedding=8, epochs=3, folds=3)
COUNT = 12


def names() -> list[str]:
    return [f"p{i}" for i in range(COUNT)]


def inputs() -> torch.Tensor:
    return torch.randn(COUNT + 8, 5, generator=torch.Generator().manual_seed(0))


def labelled(config: Config = CONFIG, changed: str = "") -> Labelled:
    values = {name: float(i * i % 7) + 100 * (name == changed) for i, name in enumerate(names())}
    return Labelled.choose(values, config, {})


def trained(config: Config = CONFIG, changed: str = "", steps: int = 4) -> CrossFit:
    """Networks after a few steps of both kinds, with noise in each view; the last eight inputs have no label."""
    networks = CrossFit(config, labelled(config, changed), 5)
    optimizer = torch.optim.AdamW([p for p in networks.parameters() if p.requires_grad], lr=1e-2)
    labels = networks.labels([*names(), *(["other"] * 8)])
    for step in range(steps):
        torch.manual_seed(step)
        loss = networks.losses(lambda _: inputs() + 0.1 * torch.randn(COUNT + 8, 5), labels, step)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return networks.eval()


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_every_label_is_in_one_fold_of_nearly_equal_size() -> None:
    found = labelled()
    assert found.left_out == (None, 0, 1, 2)
    assert np.bincount(found.folds).tolist() == [4, 4, 4]
    assert np.array_equal(found.folds, labelled().folds)
    assert not np.array_equal(found.folds, labelled(replace(CONFIG, seed=1)).folds)
    assert labelled(replace(CONFIG, folds=50)).left_out == (None, *range(COUNT))
    seen = CrossFit(CONFIG, found, 5).labels([*names(), "other"])
    assert seen.isnan().sum(dim=1).tolist() == [1, 5, 5, 5]
    assert not seen[0, :-1].isnan().any()
    assert np.array_equal(seen[1:, :-1].isnan().numpy(), np.arange(3)[:, None] == found.folds)


@pytest.mark.parametrize("system", ["dml_s2r", "mean_teacher", "ucvme"])
def test_a_network_of_a_fold_learns_nothing_of_its_labels(system: str) -> None:
    config = replace(CONFIG, system=system)
    fold = int(labelled(config).folds[5])
    before, after = trained(config), trained(config, changed="p5")
    equal = [same(a, b) for a, b in zip(before.objectives, after.objectives, strict=True)]
    assert equal == [number == fold + 1 for number in range(4)]


@pytest.mark.parametrize("system", ["dml_s2r", "mean_teacher", "ucvme", "rankup"])
def test_the_kept_network_does_not_depend_on_the_folds(system: str) -> None:
    config = replace(CONFIG, system=system)
    first, second = trained(config), trained(replace(config, folds=2))
    assert same(first.objectives[0], second.objectives[0])


def test_errors_are_those_of_the_network_that_did_not_see_the_label() -> None:
    networks = trained()
    known = networks.labelled
    with torch.no_grad():
        errors, spreads = networks.errors(networks.encode(inputs()[:COUNT]), names())
        place = 0
        for fold in range(3):
            inference = networks.inferences[fold + 1]
            rows = torch.from_numpy(known.folds == fold)
            mean, deviation = known.values[~rows.numpy()].mean(), known.values[~rows.numpy()].std()
            others = torch.from_numpy((known.values[~rows.numpy()] - mean) / deviation).float()
            inference.remember(inference.encode(inputs()[:COUNT][~rows]), others, torch.zeros(0, 8))
            for row in rows.nonzero()[:, 0]:
                found = inference.decide(inference.encode(inputs()[row][None]))
                error = float(found.value) * deviation + mean - known.values[row]
                assert errors[place] == pytest.approx(error, abs=1e-4)
                assert spreads[place] == pytest.approx(float(found.spread) * deviation, abs=1e-4)
                place += 1
    assert place == COUNT


def test_intervals_of_twelve_labels_hold_nine_tenths_on_the_average() -> None:
    """Of fresh samples of a line with noise, over sets of labels; with a held-out part there are two errors."""
    coverage = []
    config = replace(CONFIG, epochs=12, learning_rate=5e-3)
    for seed in range(6):
        draw = torch.Generator().manual_seed(seed)
        features = torch.randn(200, 5, generator=draw)
        truth = (features[:, 0] + 0.3 * torch.randn(200, generator=draw)).double().numpy()
        model = fit_vectors(replace(config, seed=seed), features[:40], np.arange(COUNT), truth[:COUNT])
        assert model.intervals.kind == "conformal"
        found = model.predict(features[40:])
        coverage.append(((found.lower <= truth[40:]) & (truth[40:] <= found.upper)).mean())
    assert 0.85 < np.mean(coverage) < 0.99
