"""FedAvg (McMahan et al. 2017): ``w <- sum p_i w_i``.

Client: SGD or Adam on its own loss. Sends its model (as a delta). No state anywhere but w.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from eoforge.federated.strategies.base import Averaging


@dataclass(frozen=True)
class FedAvg(Averaging):
    """The plain average."""

    name: ClassVar[str] = "fedavg"
