"""pFedLA (Ma et al. 2022): personal models, mixed layer by layer from the models of all silos.

Client: plain local training from its personal start ``w_i = sum_j A_i[l, j] v_j[l]``; v_j is silo j's model at the end
of its last round. Sends ``d_i = end - start``. No state at the silo.
Server, per round: ``dL/dA_i[l, j] = <v_j[l], start - end> = -<v_j[l], d_i[l]>``; hypernetwork i descends along it; then
v_i = start + d_i for those who took part, new A, new starts for all. The sign matters (a known wrong copy has the other
one): the start moves **towards** the end of training. ``model`` is the mean of all v, for places outside the federation
(*ours*).

Keeps v and the starts (2 N models) and N hypernetworks of 800 L N bytes on disk; O(N^2 M) work a round. In memory are
one hypernetwork, one chunk, and the plan of the round (a weight per tensor and pair of silos); only the start of a run
holds all hypernetworks. This grows with N^2, so :data:`MAX_SILOS` bounds it: below 100 MB for ResNet-50 (L = 107).

A layer is a module: tensors that share everything before the last dot of their name.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from eoforge.errors import UsageError
from eoforge.federated.strategies.base import Averaging, floats, require_updates, tensor_of, trained
from eoforge.federated.strategies.hypernet import F64, PARTS, HyperNet
from eoforge.federated.strategy import (
    DELTA,
    MODEL,
    Add,
    Output,
    Reduction,
    RoundInfo,
    SiloInfo,
    Source,
    Start,
    name_of,
    split_name,
)
from eoforge.storage.tensorfile import Array, Specs, TensorSpec

PERSONAL, LAST, HYPER = "personal", "last", "hyper"
MAX_SILOS = 32
_CHUNK = 1 << 18


@dataclass(frozen=True)
class PFedLA(Averaging):
    """Layer-wise personalised aggregation.

    Attributes:
        rate: Learning rate of the hypernetworks.
        seed: Seed of their initial weights.
    """

    name: ClassVar[str] = "pfedla"
    sum_type: ClassVar[bool] = False
    closed: ClassVar[bool] = True
    personal: ClassVar[bool] = True
    down: ClassVar[tuple[str, ...]] = (PERSONAL,)

    rate: float = 5e-3
    seed: int = 0

    def start(self, model: Specs, silos: Sequence[SiloInfo]) -> Mapping[str, Start]:
        """Start and last model of every silo, equal to the global model, and a new hypernetwork.

        Raises:
            UsageError: There are more silos than :data:`MAX_SILOS`.
        """
        if len(silos) > MAX_SILOS:
            raise UsageError(
                f"pFedLA keeps a model and a hypernetwork per silo, for at most {MAX_SILOS} silos; got {len(silos)}. "
                "Name fewer in the run, or choose fedbn for personal models among many"
            )
        layers = len(_layers({name_of(MODEL, n): s for n, s in model.items()}))
        tensors: dict[str, Start] = {}
        for silo in silos:
            for name, spec in floats({name_of(MODEL, n): s for n, s in model.items()}, MODEL).items():
                for group in (PERSONAL, LAST):
                    tensors[_own(group, silo.id, name)] = Start(
                        TensorSpec(spec.shape, spec.dtype, "state"), copy_of=name
                    )
            for part, values in HyperNet.fresh(self.seed, silo.id, layers, len(silos)).weights.items():
                tensors[name_of(HYPER, f"{silo.id}/{part}")] = Start(
                    TensorSpec(values.shape, "float64", "state"), values=values
                )
        return tensors

    def download(self, silo: SiloInfo, state: Specs) -> Mapping[str, str]:
        """Personal start of the silo under the names of the model; the mean model for an unknown silo."""
        names = {n: _own(PERSONAL, silo.id, n) for n in floats(state, MODEL)}
        return {n: own if own in state else n for n, own in names.items()}

    def reduction(self, info: RoundInfo, state: Specs, source: Source) -> Reduction:
        """Reduction as in the head of this module.

        Raises:
            UsageError: A silo joined after the run began: the hypernetworks' width is the number of silos.
        """
        require_updates(info)
        ids = [s.id for s in info.silos]
        unknown = [i for i in ids if name_of(HYPER, f"{i}/v") not in state]
        if unknown or state[name_of(HYPER, f"{ids[0]}/biases")].shape[1] != len(ids):
            raise UsageError(f"pFedLA needs the silos that the run began with; got {', '.join(ids)}. Start a new run")
        layers = _layers(state)
        took_part = {u.silo for u in info.updates}
        gradients = {silo: self._gradient(silo, ids, layers, state, source) for silo in sorted(took_part)}

        def net(silo: str) -> HyperNet:
            """Hypernetwork of ``silo`` after the round."""
            names = {part: name_of(HYPER, f"{silo}/{part}") for part in PARTS}
            old = HyperNet({part: _small(source, name, state[name].shape) for part, name in names.items()})
            return old.descend(gradients[silo], self.rate) if silo in gradients else old

        outputs = self._outputs(info, state, ids, took_part, layers, {silo: net(silo).mixing() for silo in ids})
        return Reduction(tuple(outputs), _Stepped(net, sorted(took_part)))

    def _gradient(
        self, silo: str, ids: Sequence[str], layers: Mapping[str, Sequence[str]], state: Specs, source: Source
    ) -> F64:
        """Gradient dL/dA of one silo ``[L, N]``, summed chunk by chunk."""
        gradient_LN = np.zeros((len(layers), len(ids)))
        parameters = trained(state)
        for row, names in enumerate(layers.values()):
            for name in (n for n in names if n in parameters):
                for begin in range(0, state[name].size, _CHUNK):
                    end = min(begin + _CHUNK, state[name].size)
                    moved = source.update(silo, name_of(DELTA, tensor_of(name)), begin, end).astype(np.float64)
                    for column, other in enumerate(ids):
                        last = source.state(_own(LAST, other, name), begin, end).astype(np.float64)
                        gradient_LN[row, column] -= float((last * moved).sum())
        return gradient_LN

    def _outputs(
        self,
        info: RoundInfo,
        state: Specs,
        ids: Sequence[str],
        took_part: set[str],
        layers: Mapping[str, Sequence[str]],
        mixing: Mapping[str, F64],
    ) -> list[Output]:
        outputs = []
        for row, names in enumerate(layers.values()):
            for name in names:
                delta = name_of(DELTA, tensor_of(name))
                # v_j after the round: start + delta for those who took part, the old one for the rest
                ends = [_own(PERSONAL if i in took_part else LAST, i, name) for i in ids]

                def mixed(target: str, weights: F64, ends: list[str] = ends, delta: str = delta) -> Output:
                    keep = tuple(zip(ends, weights.tolist(), strict=True))
                    add = {i: w for i, w in zip(ids, weights.tolist(), strict=True) if i in took_part}
                    return Output(target, state[target], keep, (Add(delta, 1.0, add),))

                outputs += [mixed(_own(PERSONAL, silo, name), mixing[silo][row]) for silo in ids]
                for silo in sorted(took_part):
                    last = _own(LAST, silo, name)
                    keep = ((_own(PERSONAL, silo, name), 1.0),)
                    outputs.append(Output(last, state[last], keep, (Add(delta, 1.0, {silo: 1.0}),)))
                weights = np.array([1.0 if self.weighting == "uniform" else s.examples for s in info.silos])
                outputs.append(mixed(name, weights / weights.sum()))
        return outputs


class _Stepped(Mapping[str, Array]):
    """New weights of the hypernetworks by full name, computed when read; one network is in memory at a time.

    The writer reads in the order of names, so each network is computed once or twice.
    """

    def __init__(self, net: Callable[[str], HyperNet], silos: Sequence[str]) -> None:
        self._net, self._silos = net, silos
        self._held: tuple[str, HyperNet] | None = None
        self._lock = threading.Lock()  # several threads write chunks

    def __getitem__(self, name: str) -> Array:
        silo, _, part = tensor_of(name).rpartition("/")
        if split_name(name)[0] != HYPER or silo not in self._silos or part not in PARTS:
            raise KeyError(name)
        with self._lock:
            if self._held is None or self._held[0] != silo:
                self._held = None  # freed before the next one is computed
                self._held = silo, self._net(silo)
            return self._held[1].weights[part]

    def __iter__(self) -> Iterator[str]:
        return (name_of(HYPER, f"{silo}/{part}") for silo in self._silos for part in PARTS)

    def __len__(self) -> int:
        return len(self._silos) * len(PARTS)


def _own(group: str, silo: str, model_name: str) -> str:
    return name_of(group, f"{silo}/{tensor_of(model_name)}")


def _layers(state: Specs) -> dict[str, list[str]]:
    """Module name -> full names of its float tensors, in the order of the model."""
    layers: dict[str, list[str]] = {}
    for name in floats(state, MODEL):
        layers.setdefault(tensor_of(name).rpartition(".")[0], []).append(name)
    return layers


def _small(source: Source, name: str, shape: tuple[int, ...]) -> F64:
    return source.state(name, 0, int(np.prod(shape))).astype(np.float64).reshape(shape)
