"""The silo's side of MM-FL: whitening at home, and mutual information between sensors (module MIM).

``L_k = BCE + lambda NT-Xent(z, z')``, z' the other sensor's embedding of the same cell (*ours*: NT-Xent as in the
group's SS-CM-RSIR; the paper was not readable). Where z' comes from:

``paired``  the silo holds both sensors and trains both encoders;
``relay``   the silo holds one. At the end of a round it adds the unit embedding of every cell into slot ``hash(salt,
cell)`` of a table and sends the table; the server adds up the tables of a sensor. In the next round silos of the other
            sensor find z' at the cell's slot, without gradient. Tables have one size, sums need no list of cells, and
            secure aggregation could carry them. Still, an embedding says something about a patch: opt in with care.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from eoforge.federated.strategies.mm_fl import OWN, RELAY, SENSORS, UNSEEN, WHITENING, MultiModal, sensor_of
from eoforge.federated.strategies.objective import Effort, Local, Objective, Sent
from eoforge.federated.strategy import name_of, split_name
from eoforge.federated.training.sensor_data import SensorBatch, SensorData
from eoforge.losses.contrastive import nt_xent
from eoforge.methods.mm_fl.model import MultiModalNetwork

_PAIRS = 2
"""NT-Xent needs another pair to tell apart."""


class MutualInformation(Objective):
    """See the head of this module."""

    def __init__(self, local: Local, strategy: MultiModal) -> None:
        super().__init__(local)
        self.strategy = strategy
        own = {split_name(n)[1]: t for n, t in local.state.items() if split_name(n)[0] == OWN}
        local.model.load_state_dict(own, strict=False)

    @property
    def network(self) -> MultiModalNetwork:
        """The model, by its type."""
        assert isinstance(self.local.model, MultiModalNetwork)
        return self.local.model

    @property
    def data(self) -> SensorData:
        """The data, by their type."""
        assert isinstance(self.local.data, SensorData)
        return self.local.data

    def penalty(self, given: Any, representation: Any) -> Tensor | None:
        if self.strategy.mim == "off":
            return None
        assert isinstance(given, SensorBatch)
        if len(given.slots) < _PAIRS:
            return None
        ends = self._paired(representation) if self.strategy.mim == "paired" else self._relayed(given, representation)
        return None if ends is None else self.strategy.weight * nt_xent(*ends, self.strategy.temperature)

    def _paired(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        first, second = (self.network.project(features[sensor], sensor) for sensor in SENSORS)
        return first, second

    def _relayed(self, batch: SensorBatch, features: dict[str, Tensor]) -> tuple[Tensor, Tensor] | None:
        sensor = self.data.sensors[0]
        other = next(s for s in SENSORS if s != sensor)
        counts = self.local.received[name_of(RELAY, f"{other}.count")][batch.slots]
        known = counts > 0
        if int(known.sum()) < _PAIRS:
            return None  # the first round, or hardly any of these cells has a silo with the other sensor
        remote = self.local.received[name_of(RELAY, f"{other}.sum")][batch.slots[known]]
        return self.network.project(features[sensor][known], sensor), remote

    def finish(self, effort: Effort) -> Sent:
        held = {"", *self.data.sensors}
        tensors = self.network.state_dict()
        stay = {n: t.detach().clone() for n, t in tensors.items() if n.endswith(WHITENING) and sensor_of(n) in held}
        sent = Sent(
            {name_of(UNSEEN, n): t for n, t in stay.items()}, state={name_of(OWN, n): t for n, t in stay.items()}
        )
        if self.strategy.mim == "relay":
            sent.tensors |= self._table()
        return sent

    @torch.no_grad()
    def _table(self) -> dict[str, Tensor]:
        """Sums of unit embeddings and counts by slot, over all training cells of the silo."""
        sensor = self.data.sensors[0]
        network = self.network.eval()
        device = next(network.parameters()).device
        sums = torch.zeros(self.strategy.slots, self.strategy.embedding, device=device)
        counts = torch.zeros(self.strategy.slots, device=device)
        for batch in self.data.in_order():
            features = network.represent({sensor: batch.images[sensor]})[sensor]
            sums.index_add_(0, batch.slots, functional.normalize(network.project(features, sensor).float(), dim=1))
            counts.index_add_(0, batch.slots, torch.ones(len(batch.slots), device=device))
        return {name_of(RELAY, f"{sensor}.sum"): sums, name_of(RELAY, f"{sensor}.count"): counts}
