"""pFedLA: its hypernetwork against autograd, whole rounds by hand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from eoforge.errors import UsageError
from eoforge.federated.strategies.hypernet import PARTS, HyperNet
from eoforge.federated.strategies.pfedla import MAX_SILOS, PFedLA
from eoforge.federated.strategy import RoundInfo, SiloInfo, UpdateInfo
from eoforge.storage.tensorfile import TensorSpec
from tests.federated.training.federations import START, QuadraticData, QuadraticFederation, three_silos


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


def test_pfedla_by_hand() -> None:
    """Two rounds with the mixing taken from the hypernetworks, everything else written out."""
    problems = three_silos()
    federation = QuadraticFederation(PFedLA("uniform", rate=0.01), problems)
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


def test_the_model_for_others_weighs_silos_by_their_examples() -> None:
    problems = three_silos()
    federation = QuadraticFederation(PFedLA("examples", rate=0.01), problems)
    federation.round()
    federation.round(0, 2)
    last = [federation.state.tensors[f"last/silo-{i}/w"] for i in range(3)]
    assert np.allclose(federation.w, np.average(last, axis=0, weights=[p.examples for p in problems]), rtol=1e-9)
    assert not np.allclose(federation.w, np.mean(last, axis=0), rtol=1e-3)


def test_pfedla_refuses_silos_that_join_later() -> None:
    federation = QuadraticFederation(PFedLA(), three_silos())
    federation.silos.append(SiloInfo("silo-9", 5))
    federation.trainers["silo-9"] = federation.trainers["silo-0"]
    with pytest.raises(UsageError, match="the silos that the run began with"):
        federation.round()


def test_one_hypernetwork_is_in_memory_at_a_time() -> None:
    import tracemalloc

    federation = QuadraticFederation(PFedLA(), [QuadraticData([1, 2, 3], [i, 0, -i]) for i in range(10)])
    every = [
        UpdateInfo(s.id, 1, 1, frozenset(federation.strategy.upload(s, federation.state.specs)))
        for s in federation.silos
    ]
    source = Zeros(federation.state.tensors)
    info = RoundInfo(0, tuple(federation.silos), tuple(every))
    one = sum(federation.state.tensors[f"hyper/silo-0/{part}"].nbytes for part in PARTS)
    tracemalloc.start()
    try:
        reduction = federation.strategy.reduction(info, federation.state.specs, source)
        read = sum(value.nbytes for value in reduction.values.values())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert read == 10 * one  # every network was read, in the order in which a coordinator writes them
    # The old network, its gradients, the new one, and the plan: far from all ten.
    assert peak < 6 * one


class Zeros:
    """A server's tensors, and updates that changed nothing."""

    def __init__(self, tensors: Mapping[str, np.ndarray]) -> None:
        self.tensors = tensors

    def update(self, silo: str, name: str, start: int, stop: int) -> np.ndarray:
        return np.zeros(stop - start)

    def state(self, name: str, start: int, stop: int) -> np.ndarray:
        return self.tensors[name].reshape(-1)[start:stop]


def test_more_silos_than_memory_is_planned_for_are_refused() -> None:
    silos = [SiloInfo(f"silo-{i:02d}", 1) for i in range(MAX_SILOS + 1)]
    with pytest.raises(UsageError, match=r"at most 32 silos; got 33\. Name fewer"):
        PFedLA().start({"w": TensorSpec((3,))}, silos)


def _net(tensors: Mapping[str, np.ndarray], silo: str) -> HyperNet:
    prefix = f"hyper/{silo}/"
    return HyperNet({n.removeprefix(prefix): t.copy() for n, t in tensors.items() if n.startswith(prefix)})
