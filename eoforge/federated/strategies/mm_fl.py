"""MM-FL's server side (module MF): every tensor is averaged over the silos that sent it, and over no others.

A silo of sensor m holds ``(theta_m, psi)``: it receives and sends the tensors of its sensor and the shared ones. So
``theta_m <- sum over K_m of (n_k / n_Km) theta_k`` and ``psi <- sum over all of (n_k / n) psi_k``; weights are
normalised tensor by tensor, and a tensor that nobody sent keeps its value. A silo with both sensors holds everything.

Whitening statistics (module FW) stay at the silo, as in FedBN; silos send them so that the server's model has an
average for places outside the federation, and never receive it. Relay tables (module MIM) are sums by slot: see
``loss.py``.

A tensor's sensor is the second part of its name: ``encoders.s1.stages.1.weight``; any other second part is shared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from eoforge.errors import UsageError
from eoforge.federated.strategies.base import Averaging, floats, mean, require_updates, tensor_of
from eoforge.federated.strategies.objective import Local, Objective
from eoforge.federated.strategy import MODEL, Add, Output, Reduction, RoundInfo, SiloInfo, Source, Start, name_of
from eoforge.storage.tensorfile import Specs, TensorSpec

SENSORS: tuple[str, ...] = ("s1", "s2")
OWN, UNSEEN, RELAY = "own", "unseen", "relay"
WHITENING: tuple[str, ...] = (".running_centre", ".running_covariance")
"""How the buffers end that whitening keeps."""

Mim = Literal["off", "relay", "paired"]


@dataclass(frozen=True)
class MultiModal(Averaging):
    """Averaging per tensor.

    Attributes:
        mim: Mutual information: ``off``; ``relay`` sends embeddings through the server; ``paired`` needs both sensors
        at a silo.
        weight: lambda, the weight of the contrast.
        temperature: T of the contrast.
        slots: Rows of a relay table; more than four times the cells keep collisions rare.
        embedding: Length of relayed embeddings.
        salt: Of the hash that turns a cell's name into a slot.
    """

    name: ClassVar[str] = "mm_fl"

    mim: Mim = "off"
    weight: float = 1.0
    temperature: float = 0.5
    slots: int = 1 << 18
    embedding: int = 128
    salt: int = 0

    def __post_init__(self) -> None:
        """Checks ranges.

        Raises:
            UsageError: A number is not positive.
        """
        if self.weight < 0 or not self.temperature > 0 or self.slots < 1 or self.embedding < 1:
            raise UsageError(
                "expected weight >= 0, temperature > 0, slots >= 1 and embedding >= 1; got "
                f"{self.weight}, {self.temperature}, {self.slots}, {self.embedding}"
            )

    def start(self, model: Specs, silos: Sequence[SiloInfo]) -> Mapping[str, Start]:
        """Empty relay tables.

        Raises:
            UsageError: ``paired`` and a silo with one sensor.
        """
        single = [s.id for s in silos if s.modality]
        if self.mim == "paired" and single:
            raise UsageError(
                f"mim=paired needs both sensors at every silo; {', '.join(single[:3])} hold one. Use relay"
            )
        if self.mim != "relay":
            return {}
        return {
            name_of(RELAY, f"{sensor}.{part}"): Start(spec)
            for sensor in SENSORS
            for part, spec in self._table().items()
        }

    def download(self, silo: SiloInfo, state: Specs) -> Mapping[str, str]:
        """The silo's part of the model, but whitening statistics; the other sensor's relay table."""
        names = [n for n in floats(state, MODEL) if holds(silo, n) and not n.endswith(WHITENING)]
        if self.mim == "relay":
            names += [n for n in floats(state, RELAY) if tensor_of(n).partition(".")[0] != silo.modality]
        return {n: n for n in names}

    def upload(self, silo: SiloInfo, state: Specs) -> Specs:
        """The same part, whitening statistics as values, and the relay table of its own sensor."""
        part = {n: s for n, s in state.items() if holds(silo, n)}
        sent = dict(super().upload(silo, {n: s for n, s in part.items() if not n.endswith(WHITENING)}))
        sent |= {name_of(UNSEEN, tensor_of(n)): s for n, s in floats(part, MODEL).items() if n.endswith(WHITENING)}
        if self.mim == "relay":
            sent |= {name_of(RELAY, f"{silo.modality}.{part}"): spec for part, spec in self._table().items()}
        return sent

    def reduction(self, info: RoundInfo, state: Specs, source: Source) -> Reduction:
        """See the head of this module."""
        require_updates(info)
        outputs: list[Output] = []
        for name, spec in floats(state, MODEL).items():
            if not name.endswith(WHITENING):
                outputs += self.averaged(name, spec, info.updates)
                continue
            value = name_of(UNSEEN, tensor_of(name))
            if senders := [u for u in info.updates if value in u.names]:
                outputs.append(Output(name, spec, (), (mean(value, senders, self.weighting),)))
        for name, spec in floats(state, RELAY).items():
            if senders := [u for u in info.updates if name in u.names]:
                outputs.append(Output(name, spec, (), (Add(name, 1.0, {u.silo: 1.0 for u in senders}),)))
        return Reduction(tuple(outputs))

    def objective(self, local: Local) -> Objective:
        """Whitening at home, and the contrast that ``mim`` asks for."""
        from eoforge.federated.strategies.mutual_information import MutualInformation

        return MutualInformation(local, self)

    def _table(self) -> dict[str, TensorSpec]:
        return {
            "sum": TensorSpec((self.slots, self.embedding), "float32", "state"),
            "count": TensorSpec((self.slots,), "float32", "state"),
        }


def sensor_of(tensor: str) -> str:
    """``s1``, ``s2``, or empty for what all silos share."""
    parts = tensor.split(".", 2)
    return parts[1] if len(parts) > 1 and parts[1] in SENSORS else ""


def holds(silo: SiloInfo, name: str) -> bool:
    """Whether ``silo`` has a use for model tensor ``name``."""
    return not silo.modality or sensor_of(tensor_of(name)) in ("", silo.modality)
