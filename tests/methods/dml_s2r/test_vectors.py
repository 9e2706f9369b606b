"""Training on plain vectors: golden curves, agreement of all systems, and what each objective learns from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from eoforge.errors import DataRefused
from eoforge.methods.dml_s2r.baselines import build_objective
from eoforge.methods.dml_s2r.config import SYSTEMS, Config
from eoforge.methods.dml_s2r.objective import DmlS2r
from eoforge.methods.dml_s2r.vectors import fit_vectors

CONFIG = replace(Config.tiny(), target="y", batch_size=16, epochs=5, hidden=16, embedding=8, jitter=0.0, folds=2)
GOLDEN = {
    ("triplet", "pair"): (1.2037, 0.3318, 1.1634, 0.1544, 1.1517, 0.1294, 1.1369, 0.119, 1.1153, 0.2838),
    ("triplet", "single"): (1.1371, 0.202, 1.0492, 0.0796, 0.9331, 0.0342, 0.7704, 0.0134, 0.5589, 0.00725),
    ("log_ratio", "pair"): (1.2037, 23.6546, 1.1667, 17.0956, 1.1538, 13.8392, 1.129, 10.3239, 1.0898, 7.8834),
    ("log_ratio", "single"): (1.1371, 10.0, 1.0547, 6.4369, 0.9646, 3.8915, 0.8523, 2.7309, 0.724, 1.6186),
}
DEFAULT = (1.1371, 1.7329, 1.0439, 1.3631, 0.9132, 1.0245, 0.7143, 0.7124, 0.4428, 0.4122)


def data(count: int = 160) -> tuple[torch.Tensor, np.ndarray]:
    """Vectors of five numbers, and a smooth target of the first two."""
    features = torch.randn(count, 5, generator=torch.Generator().manual_seed(0))
    return features, (3 * features[:, 0] + features[:, 1].sin() + 7).double().numpy()


def curve_of(config: Config, steps: int = 10) -> list[float]:
    """Losses of steps on one batch of which half has labels; the steps of the alternation take turns."""
    objective = build_objective(config, vector=5)
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=1e-2)
    features, values = data(16)
    labels = torch.tensor((values - 7) / 3).float()
    labels[8:] = float("nan")
    curve = []
    for step in range(steps):
        loss = objective.losses(lambda _: features, labels, step)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(float(loss.detach()))
    return curve


@pytest.mark.parametrize(("metric", "difference"), list(GOLDEN))
def test_golden_loss_curve_of_ten_steps(metric: str, difference: str) -> None:
    """Written by this code; the tolerance covers threads and instruction sets over ten steps."""
    plain = {"average": 0.0, "metric_weight": 1.0, "pair_weight": 0.0, "pseudo_weight": 0.0}
    config = replace(CONFIG, metric=metric, difference=difference, epochs=10, **plain)
    assert curve_of(config) == pytest.approx(GOLDEN[metric, difference], rel=5e-3)


def test_golden_loss_curve_of_the_default_settings() -> None:
    assert curve_of(replace(CONFIG, epochs=10)) == pytest.approx(DEFAULT, rel=5e-3)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_learns_a_smooth_target(system: str) -> None:
    features, values = data()
    rows = np.arange(0, 120, 2)
    config = replace(CONFIG, system=system, epochs=31, learning_rate=5e-3, average=0.9)
    model = fit_vectors(config, features[:120], rows, values[rows])
    found = model.predict(features[120:])
    error = np.sqrt(np.mean((found.value - values[120:]) ** 2))
    assert error < 0.7 * values.std()
    within = (found.lower <= values[120:]) & (values[120:] <= found.upper)
    assert 0.6 < within.mean() <= 1
    again = fit_vectors(config, features[:120], rows, values[rows]).predict(features[120:])
    assert np.array_equal(found.value, again.value)


def test_labels_of_the_order_of_vectors_do_not_matter() -> None:
    features, values = data()
    rows = np.arange(0, 120, 4)
    first = fit_vectors(CONFIG, features[:120], rows, values[rows]).predict(features[120:])
    other = np.ascontiguousarray(rows[::-1])
    second = fit_vectors(CONFIG, features[:120], other, values[other]).predict(features[120:])
    np.testing.assert_allclose(first.value, second.value, atol=1e-4)


def test_too_few_labels_are_refused() -> None:
    features, values = data()
    with pytest.raises(DataRefused, match=r"at least 6 labelled patches .* got 5"):
        fit_vectors(CONFIG, features, np.arange(5), values[:5])


def objective_and_batch(**settings: float) -> tuple[DmlS2r, torch.Tensor, torch.Tensor]:
    objective = build_objective(replace(CONFIG, neighbours=3, **settings), vector=5)
    assert isinstance(objective, DmlS2r)
    labels = torch.tensor(data(16)[1]).float()
    labels[6:] = float("nan")
    return objective, data(16)[0], labels


def gradient(objective: DmlS2r, part: str) -> float:
    twin = getattr(objective.student.network, part)
    return sum(float(p.grad.abs().sum()) for p in twin.parameters() if p.grad is not None)


def test_the_first_step_sees_labelled_inputs_alone() -> None:
    objective, features, labels = objective_and_batch()
    changed = features.clone()
    changed[6:] += 1
    losses = [objective.losses(lambda _, x=x: x, labels, 0)["loss"] for x in (features, changed)]
    torch.testing.assert_close(*losses)
    losses[0].backward()
    assert gradient(objective, "difference") > 0
    assert gradient(objective, "encoder") > 0


def test_the_second_step_moves_phi_by_what_the_average_says() -> None:
    """And f^d not at all where only the triplets count."""
    objective, features, labels = objective_and_batch(pair_weight=0.0, pseudo_weight=0.0)
    loss = objective.losses(lambda _: features, labels, 1)["loss"]
    loss.backward()
    assert gradient(objective, "encoder") > 0
    assert gradient(objective, "difference") == 0
    guided = [float(objective.losses(lambda _: features, labels, 1)["loss"].detach())]
    with torch.no_grad():
        for p in objective.inference.twin.parameters():
            p.normal_(generator=torch.Generator().manual_seed(1))
    objective.student.steps += 10**6
    objective.config = replace(objective.config, average=1 - 1e-6)  # it hardly moves any more
    guided.append(float(objective.losses(lambda _: features, labels, 1)["loss"].detach()))
    assert guided[0] != guided[1]


def test_pseudo_values_of_the_average_train_the_difference() -> None:
    objective, features, labels = objective_and_batch(pair_weight=0.0, metric_weight=0.0)
    terms = objective.losses(lambda _: features, labels, 1)
    terms["loss"].backward()
    assert gradient(objective, "difference") > 0
    guide = objective.inference.twin
    with torch.no_grad():
        phi = guide.encoder(features)
        known = labels[:6]
        nearest = (phi / phi.norm(dim=1, keepdim=True)) @ (phi / phi.norm(dim=1, keepdim=True))[:6].T
        values = labels.clone()
        for i in range(6, 16):
            near = nearest[i].topk(3).indices
            values[i] = (known[near] + guide.difference(phi[i][None], phi[near])[0]).mean()
        learner = objective.student.network
        found = learner.difference(learner.encoder(features), learner.encoder(features))
        expected = ((values[:, None] - values[None]) - found)[6:].square().mean()
    assert float(terms["unlabelled"].detach()) == pytest.approx(float(expected), rel=1e-4)


def test_the_second_step_uses_unlabelled_inputs() -> None:
    objective, features, labels = objective_and_batch()
    changed = features.clone()
    changed[10:] += 1
    losses = [float(objective.losses(lambda _, x=x: x, labels, 1)["loss"].detach()) for x in (features, changed)]
    assert losses[0] != losses[1]


@pytest.mark.parametrize("system", ["mean_teacher", "dml_s2r"])
def test_what_predicts_is_the_average_of_the_student(system: str) -> None:
    objective = build_objective(replace(CONFIG, system=system, average=0.9), vector=5)
    features, labels = data(16)[0], torch.zeros(16)
    learns, predicts = (
        (objective.student.network.last, objective.network.last)
        if system == "mean_teacher"
        else (objective.student.network.difference.last, objective.inference.twin.difference.last)
    )
    seen, weight = [], predicts.weight.clone()
    for _ in range(30):
        with torch.no_grad():
            learns.weight.add_(1)
        objective.losses(lambda _: features, labels, 0)
        seen.append(float((predicts.weight - weight).detach().mean()))
    assert seen[:4] == pytest.approx([1, 1.5, 2, 2.5])  # means of 1, 2, 3, 4
    expected = seen[9]
    for step in range(10, 30):
        expected = 0.9 * expected + 0.1 * (step + 1)
    assert seen[-1] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("system", [one for one in SYSTEMS if one != "coreg"])  # it does not train on vectors
def test_a_batch_without_labels_has_a_finite_loss(system: str) -> None:
    objective = build_objective(replace(CONFIG, system=system), vector=5)
    terms = objective.losses(lambda _: data(16)[0], torch.full((16,), float("nan")), 4)
    terms["loss"].backward()
    assert torch.isfinite(terms["loss"])
