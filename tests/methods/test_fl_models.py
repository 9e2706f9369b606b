"""What federated strategies do to whole networks: buffers, batch norm, projections, personal models, bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from eoforge.errors import UsageError
from eoforge.federated import simulate
from eoforge.federated.strategy import SiloInfo, wire_bytes
from eoforge.methods.fl_rs.feddc import FedDC
from eoforge.methods.fl_rs.hypernet import HyperNet
from eoforge.methods.fl_rs.local import LocalSettings, SiloTrainer
from eoforge.methods.fl_rs.loss import Effort, Local
from eoforge.methods.fl_rs.model import CodeHead, Network, specs_of
from eoforge.methods.fl_rs.moon import contrast
from eoforge.methods.fl_rs.pfedla import PFedLA
from eoforge.methods.fl_rs.strategies import ALGORITHMS, make_strategy, strategy_type
from tests.methods.fl_support import START, Federation, Quadratic, three


class Normed(Network):
    """Linear, batch norm, linear: has weights, gamma and beta, running statistics, and a counter."""

    def __init__(self, projection: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.Linear(3, 4)
            self.norm = nn.BatchNorm1d(4)
            self.projection: nn.Module = nn.Linear(4, projection) if projection else nn.Identity()
            self.head = nn.Linear(projection or 4, 2)

    def represent(self, images: Tensor) -> Tensor:
        out: Tensor = self.projection(self.norm(self.first(images)).relu())
        return out

    def classify(self, representation: Tensor) -> Tensor:
        out: Tensor = self.head(representation)
        return out


class Drawn:
    """Sixteen points around a centre of the silo's own."""

    def __init__(self, number: int, examples: int = 16) -> None:
        generator = torch.Generator().manual_seed(number)
        self.x = torch.randn(examples, 3, generator=generator) + number
        self.y = (self.x.sum(dim=1, keepdim=True) > 3 * number).float().repeat(1, 2)
        self.examples = examples

    def batches(self, round_number: int, epoch: int) -> Iterator[Any]:
        yield from zip(self.x.split(8), self.y.split(8), strict=True)

    def loss(self, network: Network, batch: Any) -> tuple[Tensor, Any, Any]:
        z = network.represent(batch[0])
        return functional.binary_cross_entropy_with_logits(network.classify(z), batch[1]), batch[0], z

    def evaluate(self, network: Network) -> Mapping[str, float]:
        with torch.no_grad():
            return {
                "examples": float(self.examples),
                "logit": float(network.classify(network.represent(self.x)).mean()),
            }


class Trio:
    """Three silos that train :class:`Normed`."""

    def __init__(self, name: str, **options: Any) -> None:
        self.strategy = make_strategy(name, options)
        self.silos = [SiloInfo(f"silo-{i}", 16 + 8 * i) for i in range(3)]
        self.data = {s.id: Drawn(i, s.examples) for i, s in enumerate(self.silos)}

        def network() -> Normed:
            return Normed(self.strategy.projection)

        self.trainers = {
            i: SiloTrainer(self.strategy, network, d, LocalSettings(learning_rate=0.05)) for i, d in self.data.items()
        }
        model = network()
        self.specs = specs_of(model)
        arrays = {n: t.numpy().copy() for n, t in model.state_dict().items()}
        self.state = simulate.begin(self.strategy, self.specs, arrays, self.silos)

    def round(self, *who: int) -> simulate.RoundFigures:
        chosen = [f"silo-{i}" for i in who] or None
        return simulate.run_round(self.strategy, self.state, self.silos, self.trainers, chosen)


def test_roles_of_tensors() -> None:
    roles = {name: spec.role for name, spec in specs_of(Normed()).items()}
    assert roles["first.weight"] == roles["head.bias"] == "weight"
    assert roles["norm.weight"] == roles["norm.bias"] == "norm"
    assert roles["norm.running_mean"] == roles["norm.running_var"] == "statistic"
    assert roles["norm.num_batches_tracked"] == "counter"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_counters_never_travel_and_statistics_are_averaged(name: str) -> None:
    trio = Trio(name)
    for silo in trio.silos:
        travels = {*trio.strategy.download(silo, trio.state.specs), *trio.strategy.upload(silo, trio.state.specs)}
        assert not any(n.endswith("num_batches_tracked") for n in travels)
    trio.round()
    assert trio.state.tensors["model/norm.num_batches_tracked"] == 0
    assert trio.state.tensors["model/norm.num_batches_tracked"].dtype == np.int64
    assert np.abs(trio.state.tensors["model/norm.running_mean"]).max() > 0  # a mean over silos, whoever's model it is


@pytest.mark.parametrize("name", ["scaffold", "feddc", "feddyn", "fednova"])
def test_statistics_take_the_plain_mean_whatever_acts_on_parameters(name: str) -> None:
    plain, other = Trio("fedavg", weighting="uniform"), Trio(name, weighting="uniform")
    plain.round()
    other.round()
    # In the first round every silo trains as under FedAvg, but for pulls towards w, so statistics are nearly equal.
    for tensor in ("model/norm.running_mean", "model/norm.running_var"):
        assert np.allclose(other.state.tensors[tensor], plain.state.tensors[tensor], atol=1e-4)
    state = other.state.specs
    assert not any("running" in n for n in state if not n.startswith("model/"))


FACTORS = {
    # multiples of the model: (down, up), parameters and statistics counted apart below
    **dict.fromkeys(("fedavg", "fedprox", "fednova", "moon", "feddyn", "pfedla"), (1, 1)),
    **dict.fromkeys(("scaffold", "feddc"), (2, 2)),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_declared_bytes_are_the_tensors_that_travel(name: str) -> None:
    trio = Trio(name)
    travelled: dict[str, list[int]] = {"down": [], "up": []}

    class Spy:
        def __init__(self, inner: SiloTrainer) -> None:
            self.inner = inner

        def train(self, task: Any, state: Any) -> Any:
            result = self.inner.train(task, state)
            travelled["down"].append(sum(t.nbytes for t in task.tensors.values()))
            travelled["up"].append(sum(t.nbytes for t in result.tensors.values()))
            return result

        def evaluate(self, task: Any, state: Any) -> Any:
            return self.inner.evaluate(task, state)

    trio.trainers = {i: Spy(t) for i, t in trio.trainers.items()}  # type: ignore[assignment]
    figures = trio.round()
    assert (figures.down, figures.up) == (sum(travelled["down"]), sum(travelled["up"]))
    parameters = sum(s.nbytes for s in trio.specs.values() if s.role in ("weight", "norm"))
    statistics = sum(s.nbytes for s in trio.specs.values() if s.role == "statistic")
    home = sum(s.nbytes for s in trio.specs.values() if s.role in ("norm", "statistic"))
    for silo in trio.silos:
        down, up = wire_bytes(trio.strategy, silo, trio.state.specs)
        if name == "fedbn":
            assert (down, up) == (parameters + statistics - home, parameters + statistics)
        else:
            expected = FACTORS[name]
            assert (down, up) == (expected[0] * parameters + statistics, expected[1] * parameters + statistics)
    assert tuple(map(len, (trio.strategy.down, trio.strategy.up))) == FACTORS.get(name, (1, 1))


def test_batch_norm_never_reaches_another_silo_under_fedbn() -> None:
    for unseen in ("average", "none"):
        trio = Trio("fedbn", unseen=unseen, weighting="uniform")
        trio.round()
        own = [trio.state.silos[s.id]["own/norm.weight"] for s in trio.silos]
        assert not np.allclose(own[0], own[1])
        first = trio.state.tensors["model/norm.weight"].copy()
        assert np.allclose(first, np.mean(own, axis=0) if unseen == "average" else 1.0)
        # What a silo goes on with is its own, not the average: poison the average and nothing changes at the silo.
        task = simulate.task_for(trio.strategy, trio.state, trio.silos[0], trio.silos)
        assert not any("norm" in n for n in task.tensors)
        before = trio.trainers["silo-0"].train(task, trio.state.silos["silo-0"])
        trio.state.tensors["model/norm.weight"] += 5
        task = simulate.task_for(trio.strategy, trio.state, trio.silos[0], trio.silos)
        again = trio.trainers["silo-0"].train(task, trio.state.silos["silo-0"])
        assert all(np.array_equal(again.tensors[n], t) for n, t in before.tensors.items())
    uploads = Trio("fedbn", unseen="none").strategy.upload(trio.silos[0], trio.state.specs)
    assert not any("norm" in n for n in uploads)


def test_fedbn_refuses_a_model_without_batch_norm() -> None:
    with pytest.raises(UsageError, match="choose another backbone"):
        Federation(make_strategy("fedbn"), three())


def test_silo_state_survives_a_restart_of_the_silo() -> None:
    for name in ("scaffold", "feddc", "feddyn", "moon", "fedbn"):
        whole, restarted = Trio(name), Trio(name)
        whole.round()
        restarted.round()
        kept = {i: {n: a.copy() for n, a in state.items()} for i, state in restarted.state.silos.items()}
        fresh = Trio(name)  # new trainers know nothing: all that silos remember is in these arrays
        fresh.state.tensors, fresh.state.round, fresh.state.silos = restarted.state.tensors, 1, kept
        whole.round()
        fresh.round()
        for tensor, values in whole.state.tensors.items():
            assert np.array_equal(fresh.state.tensors[tensor], values), (name, tensor)


def test_moon_contrast_in_closed_form() -> None:
    z, near, far = (torch.tensor([v]) for v in ([1.0, 0.0], [2.0, 0.0], [0.0, 3.0]))
    a, b = 1.0 / 0.5, 0.0
    expected = -np.log(np.exp(a) / (np.exp(a) + np.exp(b)))
    assert float(contrast(z, near, far, 0.5)) == pytest.approx(expected, rel=1e-6)
    assert float(contrast(z, near, near, 0.5)) == pytest.approx(np.log(2), rel=1e-6)


def test_moon_has_a_projection_head_and_contrasts_its_output() -> None:
    assert strategy_type("moon").projection == 256
    trio = Trio("moon", mu=5.0)
    seen = []
    original = Normed.classify

    def spy(self: Normed, representation: Tensor) -> Tensor:
        seen.append(representation.shape[1])
        return original(self, representation)

    Normed.classify = spy  # type: ignore[method-assign]
    try:
        trio.round()
    finally:
        Normed.classify = original  # type: ignore[method-assign]
    assert set(seen) == {256}  # the classifier stands on the projection, as in the authors' network


def test_moon_is_fedavg_in_its_first_round_and_not_afterwards() -> None:
    moon, silent = Trio("moon", mu=5.0), Trio("moon", mu=0.0)
    for together in (True, False):
        moon.round()
        silent.round()
        same = np.array_equal(moon.state.tensors["model/head.weight"], silent.state.tensors["model/head.weight"])
        assert same is together


def test_moon_pulls_towards_the_global_and_away_from_the_previous_model() -> None:
    z = torch.randn(8, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
    towards, away = (torch.randn(8, 5, generator=torch.Generator().manual_seed(s)) for s in (2, 3))
    before = functional.cosine_similarity(z, towards) - functional.cosine_similarity(z, away)
    contrast(z, towards, away, 0.5).backward()
    moved = (z - 0.1 * z.grad).detach()  # type: ignore[operator]
    after = functional.cosine_similarity(moved, towards) - functional.cosine_similarity(moved, away)
    assert bool((after > before).all())


def test_feddc_with_the_wrong_sign_diverges_and_ours_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy in CV4RS adds (theta - w) / (tau eta) to g_i, and turns into NaN after a few rounds."""
    right = Federation(FedDC("uniform", alpha=0.1), three(steps=5))
    distance = np.abs(right.rounds(15) - START).max()
    assert distance < 10

    from eoforge.methods.fl_rs import feddc

    finish = feddc._Decoupled.finish

    def wrong(self: Any, effort: Effort) -> Any:
        sent = finish(self, effort)
        moved = self.local.parameters()["w"].detach() - self.local.anchor["w"]
        change = 2 * moved / (effort.normaliser * effort.learning_rate)
        sent.tensors["gradient/w"] += self.weight * change
        sent.state["gradient/w"] += change
        return sent

    monkeypatch.setattr(feddc._Decoupled, "finish", wrong)
    copied = Federation(FedDC("uniform", alpha=0.1), three(steps=5))
    assert np.abs(copied.rounds(25) - START).max() > 1e3


def test_feddc_sends_its_drifts_mean_with_the_model() -> None:
    """The other half of that copy leaves the mean of h_i out of the new model."""
    federation = Federation(FedDC("uniform", alpha=0.1), three())
    before = federation.w.copy()
    moved = [federation.trainers[s.id] for s in federation.silos]
    ends = [
        before
        + t.train(simulate.task_for(federation.strategy, federation.state, s, federation.silos), {}).tensors["delta/w"]
        for t, s in zip(moved, federation.silos, strict=True)
    ]
    after = federation.round()
    drift = federation.state.tensors["drift/w"]
    assert np.allclose(after, np.mean(ends, axis=0) + drift)
    assert np.abs(drift).max() > 0.01


def test_scaffold_divides_by_steps_not_by_epochs() -> None:
    """The copy in FL-bench counts epochs: with 6 steps in 2 epochs its control would be three times the gradient."""
    flat = Quadratic([1e-9] * 3, START - 1e9 * np.array([1.0, -2.0, 3.0]), steps=3)
    federation = Federation(make_strategy("scaffold"), [flat], epochs=2)
    federation.round()
    assert np.allclose(federation.remembered(0, "control"), [1.0, -2.0, 3.0], atol=1e-5)


def test_hypernetwork_gradient_against_autograd() -> None:
    net = HyperNet.fresh(3, "silo-1", layers=4, silos=5)
    weights = {n: torch.from_numpy(v.copy()).requires_grad_() for n, v in net.weights.items()}
    feature = weights["v"]
    for i in range(3):
        feature = (weights[f"w{i}"] @ feature + weights[f"b{i}"]).relu()
    raw = (weights["heads"] @ feature + weights["biases"]).relu()
    mixing = raw / raw.sum(dim=1, keepdim=True)
    assert np.allclose(net.mixing(), mixing.detach().numpy(), rtol=1e-12)
    assert np.allclose(net.mixing().sum(axis=1), 1)
    gradient = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mixing.backward(gradient)
    stepped = net.descend(gradient.numpy(), rate=0.1).weights
    for name, tensor in weights.items():
        assert tensor.grad is not None
        assert np.allclose(stepped[name], net.weights[name] - 0.1 * tensor.grad.numpy(), rtol=1e-9, atol=1e-12), name


def test_a_row_without_a_live_unit_is_the_plain_mean() -> None:
    net = HyperNet.fresh(0, "silo-0", layers=2, silos=4)
    net.weights["biases"][0] = -1e3
    assert np.allclose(net.mixing()[0], 0.25)
    assert np.isfinite(net.descend(np.ones((2, 4)), 0.1).mixing()).all()


def test_pfedla_moves_the_start_towards_the_end_of_training() -> None:
    """FL-bench's copy has the other sign: its next start would be further from where training went."""
    strategy = PFedLA("uniform", rate=0.5)
    federation = Federation(strategy, three())
    federation.round()  # now the silos' last models differ, so mixing matters
    state = federation.state
    names = ["silo-0", "silo-1", "silo-2"]
    last = {i: state.tensors[f"last/{i}/w"].copy() for i in names}
    nets = {i: _net(state.tensors, i) for i in names}
    starts = {i: state.tensors[f"personal/{i}/w"].copy() for i in names}
    federation.round()
    for i in names:
        mixed = {"before": nets[i].mixing(), "after": _net(state.tensors, i).mixing()}
        end = state.tensors[f"last/{i}/w"]
        away = {
            k: np.linalg.norm(sum(a * last[j] for a, j in zip(m[0], names, strict=True)) - end)
            for k, m in mixed.items()
        }
        assert np.allclose(sum(a * last[j] for a, j in zip(mixed["before"][0], names, strict=True)), starts[i])
        assert away["after"] < away["before"]


def test_pfedla_by_hand() -> None:
    """Two rounds with the mixing taken from the hypernetworks, everything else written out."""
    problems = three()
    federation = Federation(PFedLA("uniform", rate=0.01), problems)
    names = ["silo-0", "silo-1", "silo-2"]
    starts, last = dict.fromkeys(names, START), dict.fromkeys(names, START)
    for who in ((0, 1, 2), (0, 2)):
        nets = {i: _net(federation.state.tensors, i) for i in names}
        federation.round(*who)
        ends = dict(last)
        for number in who:
            w = starts[names[number]]
            for _ in range(3):
                w = w - 0.1 * problems[number].gradient(w)
            ends[names[number]] = w
        for number in who:
            i = names[number]
            gradient = np.array([[-(last[j] @ (ends[i] - starts[i])) for j in names]])
            nets[i] = nets[i].descend(gradient, 0.01)
        starts = {i: sum(a * ends[j] for a, j in zip(nets[i].mixing()[0], names, strict=True)) for i in names}
        last = ends
        for i in names:
            assert np.allclose(federation.state.tensors[f"personal/{i}/w"], starts[i], rtol=1e-9)
            assert np.allclose(federation.state.tensors[f"last/{i}/w"], last[i], rtol=1e-9)
        assert np.allclose(federation.w, np.mean(list(last.values()), axis=0))


def test_pfedla_refuses_silos_that_join_later() -> None:
    federation = Federation(PFedLA(), three())
    federation.silos.append(SiloInfo("silo-9", 5))
    federation.trainers["silo-9"] = federation.trainers["silo-0"]
    with pytest.raises(UsageError, match="the silos that the run began with"):
        federation.round()


def test_codes_come_from_a_projection_that_never_changes() -> None:
    head = CodeHead(6, 16)
    assert "projection" not in head.state_dict()
    assert torch.equal(head.projection, CodeHead(6, 16).projection)
    # Written by this code: other bits would make every index built before useless.
    assert head.projection[0].tolist() == [-1, 1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1, -1, 1, -1, -1]
    head.train()
    head.observe(torch.randn(1, 6))  # the statistics of one patch are none
    assert int(head.norm.num_batches_tracked) == 0


def _net(tensors: Mapping[str, np.ndarray], silo: str) -> HyperNet:
    prefix = f"hyper/{silo}/"
    return HyperNet({n.removeprefix(prefix): t.copy() for n, t in tensors.items() if n.startswith(prefix)})


def test_a_silo_that_sends_other_tensors_is_named() -> None:
    trio = Trio("fedavg")

    class Short:
        def __init__(self, inner: SiloTrainer) -> None:
            self.inner = inner

        def train(self, task: Any, state: Any) -> Any:
            result = self.inner.train(task, state)
            return type(result)({"delta/head.bias": result.tensors["delta/head.bias"]}, result.examples, result.steps)

    trio.trainers["silo-1"] = Short(trio.trainers["silo-1"])  # type: ignore[assignment]
    with pytest.raises(UsageError, match="silo silo-1 sent other tensors"):
        trio.round()


def test_local_state_starts_at_zero() -> None:
    local = Local(Normed(), {"w": torch.ones(3)}, {}, {}, Drawn(0))
    assert torch.equal(local.remembered("control", "w"), torch.zeros(3))
