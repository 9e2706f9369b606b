"""FedAvg (McMahan et al. 2017): ``w <- sum p_i w_i``.

Client: SGD or Adam on its own loss; sends its model as a delta. The only state is w.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from eoforge.federated.strategies.base import Averaging


@dataclass(frozen=True)
class FedAvg(Averaging):
    """Weighted average of the silos' models."""

    name: ClassVar[str] = "fedavg"
