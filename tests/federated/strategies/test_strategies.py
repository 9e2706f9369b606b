"""Each federated strategy against its formulas written out, and the claim it is known for."""

from __future__ import annotations

import numpy as np
import pytest

from eoforge.errors import UsageError
from eoforge.federated import simulate
from eoforge.federated.strategies.objective import normaliser
from eoforge.federated.strategies.registry import make_strategy
from eoforge.methods.fl_rs.config import ALGORITHMS
from tests.federated.training.federations import START, QuadraticData, QuadraticFederation, three_silos

ETA = 0.1
PLAN = ((0, 1, 2), (0, 2), (1, 2), (0, 1, 2))
"""Who takes part in the rounds: also some, not only all."""


def descend(w, steps, gradient):
    """Plain gradient descent by ``gradient(w)``."""
    for _ in range(steps):
        w = w - ETA * gradient(w)
    return w


def weights(problems, who, weighting):
    sizes = np.array([problems[i].examples if weighting == "examples" else 1.0 for i in who])
    return sizes / sizes.sum()


def relative(problems, i, weighting):
    sizes = np.array([p.examples if weighting == "examples" else 1.0 for p in problems])
    return sizes[i] * len(problems) / sizes.sum()


def follow(name, reference, weighting, steps=3, **options):
    """Runs the plan with both and compares after every round."""
    problems = three_silos(steps)
    federation = QuadraticFederation(
        make_strategy(name, {"weighting": weighting, **options}), problems, learning_rate=ETA
    )
    for number, (who, expected) in enumerate(zip(PLAN, reference(problems, weighting), strict=True)):
        assert np.allclose(federation.round(*who), expected, rtol=1e-12, atol=1e-12), (number, who)
    return federation


BOTH = pytest.mark.parametrize("weighting", ["uniform", "examples"])


@BOTH
def test_fedavg_by_hand(weighting) -> None:
    def reference(problems, weighting):
        w = START
        for who in PLAN:
            # Gradient descent on a parabola in closed form: what is left of the distance after tau steps.
            ends = [
                problems[i].optimum + (1 - ETA * problems[i].curvature) ** 3 * (w - problems[i].optimum) for i in who
            ]
            w = sum(p * end for p, end in zip(weights(problems, who, weighting), ends, strict=True))
            yield w

    follow("fedavg", reference, weighting)


@BOTH
def test_fedprox_by_hand(weighting) -> None:
    def reference(problems, weighting):
        w, mu = START, 0.7
        for who in PLAN:
            ends = [descend(w, 3, lambda x, i=i, w=w: problems[i].gradient(x) + mu * (x - w)) for i in who]
            w = sum(p * end for p, end in zip(weights(problems, who, weighting), ends, strict=True))
            yield w

    follow("fedprox", reference, weighting, mu=0.7)


@BOTH
def test_scaffold_by_hand(weighting) -> None:
    def reference(problems, weighting):
        w, c, own = START, np.zeros(3), [np.zeros(3) for _ in problems]
        everyone = weights(problems, range(3), weighting)
        for who in PLAN:
            ends = {i: descend(w, 3, lambda x, i=i, c=c: problems[i].gradient(x) - own[i] + c) for i in who}
            new = {i: own[i] - c + (w - ends[i]) / (3 * ETA) for i in who}
            moved = sum(p * (ends[i] - w) for p, i in zip(weights(problems, who, weighting), who, strict=True))
            w = w + 0.9 * moved
            c = c + sum(everyone[i] * (new[i] - own[i]) for i in who)
            for i in who:
                own[i] = new[i]
            yield w

    follow("scaffold", reference, weighting, server_step=0.9)


@BOTH
def test_fednova_by_hand(weighting) -> None:
    taus = (1, 4, 2)
    problems = [
        QuadraticData(p.curvature, p.optimum, p.examples, tau) for p, tau in zip(three_silos(), taus, strict=True)
    ]
    federation = QuadraticFederation(make_strategy("fednova", {"weighting": weighting}), problems, learning_rate=ETA)
    w = START
    for who in PLAN:
        p = weights(problems, who, weighting)
        directions = [(w - descend(w, taus[i], problems[i].gradient)) / taus[i] for i in who]
        effective = sum(q * taus[i] for q, i in zip(p, who, strict=True))
        w = w - effective * sum(q * d for q, d in zip(p, directions, strict=True))
        assert np.allclose(federation.round(*who), w, rtol=1e-12)


@BOTH
def test_feddc_by_hand_as_the_authors_hold_it(weighting) -> None:
    """All h_i in one place and averaged anew each round, as the released code does."""

    def reference(problems, weighting):
        alpha = 0.3
        w, g = START, np.zeros(3)
        drifts, own = np.zeros((3, 3)), np.zeros((3, 3))
        for who in PLAN:
            ends, change = {}, np.zeros(3)
            for i in who:
                n = relative(problems, i, weighting)
                tilt = g / n - own[i]
                pulled = w - drifts[i]
                ends[i] = descend(
                    w, 3, lambda x, i=i, n=n, t=tilt, h=pulled: problems[i].gradient(x) + alpha / n * (x - h) + t
                )
                drifts[i] += ends[i] - w
                new = own[i] - g / n - (ends[i] - w) / (3 * ETA)
                change += n * (new - own[i])
                own[i] = new
            w = np.mean([ends[i] for i in who], axis=0) + drifts.mean(axis=0)
            g = g + change / 3
            yield w

    federation = follow("feddc", reference, weighting, alpha=0.3)
    drifts = np.mean([federation.remembered(i, "drift") for i in range(3)], axis=0)
    assert np.allclose(federation.state.tensors["drift/w"], drifts, rtol=1e-12)  # no h_i travelled, the mean is known


@BOTH
def test_feddyn_by_hand(weighting) -> None:
    def reference(problems, weighting):
        alpha = 0.3
        w, h, own = START, np.zeros(3), np.zeros((3, 3))
        for who in PLAN:
            ends = {}
            for i in who:
                a = alpha / relative(problems, i, weighting)
                ends[i] = descend(w, 3, lambda x, i=i, a=a, w=w: problems[i].gradient(x) - own[i] + a * (x - w))
                own[i] = own[i] - a * (ends[i] - w)
            h = h - alpha * sum(ends[i] - w for i in who) / 3
            w = np.mean([ends[i] for i in who], axis=0) - h / alpha
            yield w

    follow("feddyn", reference, weighting, alpha=0.3)


@pytest.mark.parametrize("name", [n for n in ALGORITHMS if n not in ("moon", "fedbn")])
def test_silos_with_equal_data_train_as_one_would(name: str) -> None:
    alone = QuadraticData([1.0, 3.0, 0.5], [2.0, 0.0, -1.0], examples=7, steps=4)
    federation = QuadraticFederation(
        make_strategy(name, {"alpha": 1e-9} if name in ("feddc", "feddyn") else {}), [alone] * 4
    )
    # FedDC and FedDyn step twice as far by design: once for the mean model, once for the mean drift.
    moved = descend(START, 4, alone.gradient) - START
    if name == "fedprox":
        moved = descend(START, 4, lambda x: alone.gradient(x) + 0.01 * (x - START)) - START
    factor = 2 if name in ("feddc", "feddyn") else 1
    assert np.allclose(federation.round(), START + factor * moved, rtol=1e-6)


def test_the_average_of_equal_models_is_that_model_to_the_last_bit() -> None:
    federation = QuadraticFederation(
        make_strategy("fedavg"), [QuadraticData([0, 0, 0], [0, 0, 0], examples=e) for e in (3, 7, 11)]
    )
    assert federation.rounds(3).tobytes() == START.tobytes()


@pytest.mark.parametrize("name", ["scaffold", "feddc", "feddyn"])
def test_drift_is_removed_where_fedavg_stalls(name: str) -> None:
    options = {"feddc": {"alpha": 0.1}, "feddyn": {"alpha": 1.0}}.get(name, {})
    plain = QuadraticFederation(make_strategy("fedavg", {"weighting": "uniform"}), three_silos(steps=5))
    corrected = QuadraticFederation(make_strategy(name, {"weighting": "uniform", **options}), three_silos(steps=5))
    problems = three_silos()
    curvatures = np.stack([p.curvature for p in problems])
    optimum = (curvatures * np.stack([p.optimum for p in problems])).sum(0) / curvatures.sum(0)
    stalled = np.abs(plain.rounds(40) - optimum).max()
    assert stalled > 0.1
    assert np.abs(plain.round() - plain.w).max() < 1e-9  # it does not move any more, it is just not the optimum
    assert np.abs(corrected.rounds(60) - optimum).max() < 1e-3 * stalled


def test_fednova_is_unbiased_under_unequal_steps_and_fedavg_is_not() -> None:
    # Nearly flat parabolas far away: each silo's gradient is constant over a round, so only the weighting can bias.
    tilt = np.array([[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]])
    problems = [
        QuadraticData([1e-9] * 3, START - 1e9 * g, examples=5, steps=tau) for g, tau in zip(tilt, (1, 9), strict=True)
    ]

    def direction(name: str) -> np.ndarray:
        moved = START - QuadraticFederation(make_strategy(name), problems).round()
        return moved / np.linalg.norm(moved)

    true = tilt.mean(axis=0) / np.linalg.norm(tilt.mean(axis=0))
    assert np.allclose(direction("fednova"), true, atol=1e-6)
    assert direction("fedavg") @ true < 0.9


def test_fednova_counts_momentum_as_often_as_gradients_enter() -> None:
    rho, tau = 0.9, 7
    # a_k = (1 - rho^(tau - k)) / (1 - rho): how often gradient k enters the model
    assert normaliser(tau, rho) == pytest.approx(sum((1 - rho ** (tau - k)) / (1 - rho) for k in range(tau)))
    assert normaliser(tau, 0.0) == tau


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_control_variates_recover_the_mean_gradient_of_the_round(momentum: float) -> None:
    flat = QuadraticData([1e-9] * 3, START - 1e9 * np.array([1.0, -2.0, 3.0]), steps=5)
    federation = QuadraticFederation(make_strategy("scaffold"), [flat], momentum=momentum)
    federation.round()
    assert np.allclose(federation.remembered(0, "control"), [1.0, -2.0, 3.0], atol=1e-5)


@pytest.mark.parametrize(("name", "group"), [("scaffold", "control"), ("feddc", "gradient")])
def test_estimates_of_the_gradient_follow_a_decaying_learning_rate(name: str, group: str) -> None:
    """The distance of a round is divided by the rate of that round, not by that of the first."""
    slope = np.array([1.0, -2.0, 3.0])
    flat = QuadraticData([1e-9] * 3, START - 1e9 * slope, steps=5)
    options = {"alpha": 1e-9} if name == "feddc" else {}
    federation = QuadraticFederation(make_strategy(name, options), [flat], decay=0.5)
    for _ in range(3):
        federation.round()
        assert np.allclose(federation.remembered(0, group), slope, atol=1e-5)


@pytest.mark.parametrize("name", ["scaffold", "feddc", "feddyn"])
def test_clipping_bounds_the_corrected_gradient(name: str) -> None:
    """A clipped gradient with a correction added is not bounded."""
    flat = QuadraticData([1e-9] * 3, START - 1e9 * np.array([3.0, 0.0, 4.0]), steps=1)
    federation = QuadraticFederation(make_strategy(name), [flat], clip=0.5)
    federation.round()
    group = {"scaffold": "control", "feddc": "gradient", "feddyn": "history"}[name]
    federation.state.silos["silo-0"][f"{group}/w"] = np.array([0.0, 70.0, 0.0])
    task = simulate.task_for(federation.strategy, federation.state, federation.silos[0], federation.silos)
    result = federation.trainers["silo-0"].train(task, federation.state.silos["silo-0"])
    moved = result.tensors["delta/w"]
    assert np.linalg.norm(moved) == pytest.approx(ETA * 0.5, rel=1e-6)
    assert abs(moved[1]) > 0.9 * np.linalg.norm(moved)  # mostly the correction


def test_a_silo_with_no_examples_cannot_be_averaged() -> None:
    federation = QuadraticFederation(make_strategy("fedavg"), [QuadraticData([1, 1, 1], [0, 0, 0], examples=0)])
    with pytest.raises(UsageError, match="0 examples together"):
        federation.round()


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(UsageError, match="strategy must be one of fedavg"):
        make_strategy("fedsgd")
    with pytest.raises(UsageError, match="fedprox has the options weighting, mu; got my"):
        make_strategy("fedprox", {"my": 1.0})
    with pytest.raises(UsageError, match="fedprox's mu must be a number"):
        make_strategy("fedprox", {"mu": "much"})
    with pytest.raises(UsageError, match="alpha must be greater than 0"):
        make_strategy("feddyn", {"alpha": 0.0})


def test_control_variates_refuse_adam() -> None:
    for name in ("scaffold", "feddc"):
        with pytest.raises(UsageError, match="Choose optimizer=sgd"):
            QuadraticFederation(make_strategy(name), three_silos(), optimizer="adam")
