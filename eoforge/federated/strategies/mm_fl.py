"""MM-FL (Büyüktaş et al. 2023): one classifier over silos that hold different sensors.

Server (module MF): every tensor is averaged over the silos that sent it. A silo of sensor m holds ``(theta_m, psi)``:
it receives and sends the tensors of its sensor and the shared ones. So ``theta_m <- sum over K_m of (n_k / n_Km)
theta_k`` and ``psi <- sum over all of (n_k / n) psi_k``; weights are normalised tensor by tensor, and a tensor that no
silo sent keeps its value. A silo with both sensors holds everything.

Client: whitening statistics (module FW) stay at the silo, as batch normalisation in FedBN; silos send them for the
global model's average and never receive it. Mutual information (module MIM): ``L_k = BCE + lambda NT-Xent(z, z')``, z'
the other sensor's embedding of the same cell (*ours*: NT-Xent as in SS-CM-RSIR; the paper was not readable):

``paired``  the silo holds both sensors and trains both encoders;
``relay``   the silo holds one. At the end of a round it adds the unit embedding of every cell into slot ``hash(salt,
            cell)`` of a table and sends the table; the server adds up the tables of a sensor. In the next round silos
            of the other sensor find z' at the cell's slot, without gradient. Tables have one size, sums need no list
            of cells, and secure aggregation could carry them. An embedding still says something about a patch.

The sensor of a tensor is the second part of its name: ``encoders.s1.stages.1.weight``; with any other second part the
tensor is shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, cast

from eoforge.errors import UsageError
from eoforge.federated.strategies.base import Averaging, floats, mean, require_updates, tensor_of
from eoforge.federated.strategies.objective import UNSEEN, Effort, Local, LocalTensors, Objective, Sent, SiloData
from eoforge.federated.strategy import MODEL, Add, Output, Reduction, RoundInfo, SiloInfo, Source, Start, name_of
from eoforge.storage.tensorfile import Specs, TensorSpec

if TYPE_CHECKING:
    from torch import Tensor

SENSORS: tuple[str, ...] = ("s1", "s2")
RELAY = "relay"
WHITENING: tuple[str, ...] = (".running_centre", ".running_covariance")
"""Name endings of the statistics of whitening layers."""
_MIN_PAIRS = 2
"""Least pairs for NT-Xent: one positive and at least one negative."""

Mim = Literal["off", "relay", "paired"]


@dataclass(frozen=True)
class MultiModal(Averaging):
    """Averaging per tensor over the silos that hold it.

    Attributes:
        mim: Mutual information: ``off``; ``relay`` sends embeddings through the server; ``paired`` needs both sensors
            at every silo.
        weight: Weight lambda of the contrastive term.
        temperature: Temperature T of the contrastive term.
        slots: Rows of a relay table; more than four times the number of cells keep collisions rare.
        embedding: Length of relayed embeddings.
        salt: Salt of the hash from a cell's name to a slot.
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
        """The silo's part of the model without whitening statistics, and the other sensor's relay table."""
        names = [n for n in floats(state, MODEL) if holds(silo, n) and not n.endswith(WHITENING)]
        if self.mim == "relay":
            names += [n for n in floats(state, RELAY) if tensor_of(n).partition(".")[0] != silo.modality]
        return {n: n for n in names}

    def upload(self, silo: SiloInfo, state: Specs) -> Specs:
        """Deltas of the same part, values of whitening statistics, and the relay table of the silo's sensor."""
        part = {n: s for n, s in state.items() if holds(silo, n)}
        sent = dict(super().upload(silo, {n: s for n, s in part.items() if not n.endswith(WHITENING)}))
        sent |= {name_of(UNSEEN, tensor_of(n)): s for n, s in floats(part, MODEL).items() if n.endswith(WHITENING)}
        if self.mim == "relay":
            sent |= {name_of(RELAY, f"{silo.modality}.{part}"): spec for part, spec in self._table().items()}
        return sent

    def reduction(self, info: RoundInfo, state: Specs, source: Source) -> Reduction:
        """Reduction as in the head of this module."""
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
        """Local whitening statistics, and the contrastive term of ``mim``."""
        return _MutualInformation(local, self)

    def _table(self) -> dict[str, TensorSpec]:
        return {
            "sum": TensorSpec((self.slots, self.embedding), "float32", "state"),
            "count": TensorSpec((self.slots,), "float32", "state"),
        }


def sensor_of(tensor: str) -> str:
    """Sensor of a tensor: ``s1``, ``s2``, or empty for a shared one."""
    parts = tensor.split(".", 2)
    return parts[1] if len(parts) > 1 and parts[1] in SENSORS else ""


def holds(silo: SiloInfo, name: str) -> bool:
    """Whether model tensor ``name`` is shared or of a sensor that ``silo`` holds."""
    return not silo.modality or sensor_of(tensor_of(name)) in ("", silo.modality)


class SensorNetwork(Protocol):
    """Network with an encoder per sensor and a projection for the contrastive term."""

    def represent(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Features ``[B, D]`` of each given sensor."""

    def project(self, features_BD: Tensor, sensor: str) -> Tensor:
        """Embedding ``[B, P]`` of one sensor's features, not yet of unit length."""


class SensorPatches(Protocol):
    """Batch of patches: images by sensor ``[B, C, S, S]`` and relay slots ``[B]``."""

    @property
    def images(self) -> Mapping[str, Tensor]:
        """Images by sensor."""

    @property
    def slots(self) -> Tensor:
        """Row of each patch's cell in a relay table."""


class SensorSiloData(SiloData, Protocol):
    """Patches of a silo that know their sensors and relay slots."""

    @property
    def sensors(self) -> tuple[str, ...]:
        """Sensors of the silo, in the order of ``SENSORS``."""

    def in_order(self) -> Iterator[SensorPatches]:
        """All training patches once, in the table's order."""


class _MutualInformation(LocalTensors):
    def __init__(self, local: Local, strategy: MultiModal) -> None:
        super().__init__(local)
        self.strategy = strategy
        self.network = cast(SensorNetwork, local.model)
        self.data = cast(SensorSiloData, local.data)

    def penalty(self, given: Any, representation: Any) -> Tensor | None:
        if self.strategy.mim == "off" or len(given.slots) < _MIN_PAIRS:
            return None
        from eoforge.losses.contrastive import nt_xent

        pairs = self._paired(representation) if self.strategy.mim == "paired" else self._relayed(given, representation)
        return None if pairs is None else self.strategy.weight * nt_xent(*pairs, self.strategy.temperature)

    def _paired(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        first, second = (self.network.project(features[sensor], sensor) for sensor in SENSORS)
        return first, second

    def _relayed(self, batch: SensorPatches, features: dict[str, Tensor]) -> tuple[Tensor, Tensor] | None:
        sensor = self.data.sensors[0]
        other = next(s for s in SENSORS if s != sensor)
        counts = self.local.received[name_of(RELAY, f"{other}.count")][batch.slots]
        known = counts > 0
        if int(known.sum()) < _MIN_PAIRS:
            return None  # the first round, or hardly any of these cells has a silo with the other sensor
        remote = self.local.received[name_of(RELAY, f"{other}.sum")][batch.slots[known]]
        return self.network.project(features[sensor][known], sensor), remote

    def is_local(self, name: str, tensor: Tensor) -> bool:
        return name.endswith(WHITENING) and sensor_of(name) in {"", *self.data.sensors}

    def finish(self, effort: Effort) -> Sent:
        sent = self.keep()
        if self.strategy.mim == "relay":
            sent.tensors |= self._relay_table()
        return sent

    def _relay_table(self) -> dict[str, Tensor]:
        """Sums of unit embeddings and counts by slot, over all training cells of the silo."""
        import torch
        from torch.nn import functional

        sensor = self.data.sensors[0]
        device = next(self.local.model.eval().parameters()).device
        sums = torch.zeros(self.strategy.slots, self.strategy.embedding, device=device)
        counts = torch.zeros(self.strategy.slots, device=device)
        with torch.no_grad():
            for batch in self.data.in_order():
                features = self.network.represent({sensor: batch.images[sensor]})[sensor]
                embeddings = functional.normalize(self.network.project(features, sensor).float(), dim=1)
                sums.index_add_(0, batch.slots, embeddings)
                counts.index_add_(0, batch.slots, torch.ones(len(batch.slots), device=device))
        return {name_of(RELAY, f"{sensor}.sum"): sums, name_of(RELAY, f"{sensor}.count"): counts}
