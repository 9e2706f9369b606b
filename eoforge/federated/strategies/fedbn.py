"""FedBN (Li et al. 2021): batch normalisation stays at the silo, all other tensors are averaged as in FedAvg.

gamma, beta and running statistics never reach another silo; each silo keeps its own. A model for regions outside the
federation needs values for them. With ``unseen="average"`` silos also send theirs, and the server averages them into
the global model, which no silo receives (*ours*). With ``unseen="none"`` they are not sent: the global model keeps the
initial values and is of use to silos only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from eoforge.errors import UsageError
from eoforge.federated.strategies.base import Averaging, floats, mean, require_updates, tensor_of
from eoforge.federated.strategies.objective import UNSEEN, Effort, Local, LocalTensors, Objective, Sent
from eoforge.federated.strategy import MODEL, Output, Reduction, RoundInfo, SiloInfo, Source, Start, name_of
from eoforge.storage.tensorfile import Specs

if TYPE_CHECKING:
    from torch import Tensor

_LOCAL_ROLES = ("norm", "statistic")


def _local_names(state: Specs) -> dict[str, str]:
    """Full name of each local tensor -> name under which a silo sends its value."""
    return {n: name_of(UNSEEN, tensor_of(n)) for n, s in floats(state, MODEL).items() if s.role in _LOCAL_ROLES}


@dataclass(frozen=True)
class FedBN(Averaging):
    """Local batch normalisation.

    Attributes:
        unseen: Source of the global model's batch normalisation: ``average`` over silos, or ``none``.
    """

    name: ClassVar[str] = "fedbn"
    personal: ClassVar[bool] = True

    unseen: Literal["average", "none"] = "average"

    def start(self, model: Specs, silos: Sequence[SiloInfo]) -> Mapping[str, Start]:
        """Nothing beyond the model.

        Raises:
            UsageError: The model has no batch normalisation.
        """
        if not any(spec.role == "norm" for spec in model.values()):
            raise UsageError(
                "FedBN keeps batch normalisation at the silo, and this model has none; choose another backbone"
            )
        return {}

    def download(self, silo: SiloInfo, state: Specs) -> Mapping[str, str]:
        """Everything but batch normalisation."""
        local = _local_names(state)
        return {n: n for n in floats(state, MODEL) if n not in local}

    def upload(self, silo: SiloInfo, state: Specs) -> Specs:
        """Deltas of the same tensors; values of batch normalisation with ``unseen="average"``."""
        local = _local_names(state)
        sent = super().upload(silo, {n: s for n, s in state.items() if n not in local})
        return {**sent, **({new: state[n] for n, new in local.items()} if self.unseen == "average" else {})}

    def reduction(self, info: RoundInfo, state: Specs, source: Source) -> Reduction:
        """FedAvg on the shared tensors; averages of the local ones for the global model alone."""
        require_updates(info)
        local = _local_names(state)
        outputs = []
        for name, spec in floats(state, MODEL).items():
            if name not in local:
                outputs += self.averaged(name, spec, info.updates)
            elif self.unseen == "average":
                outputs.append(Output(name, spec, (), (mean(local[name], info.updates, self.weighting),)))
        return Reduction(tuple(outputs))

    def objective(self, local: Local) -> Objective:
        """Batch normalisation of the silo in the model."""
        return _LocalNormalisation(local, self.unseen == "average")


class _LocalNormalisation(LocalTensors):
    def __init__(self, local: Local, send: bool) -> None:
        super().__init__(local)
        self.send = send

    def is_local(self, name: str, tensor: Tensor) -> bool:
        return name not in self.local.anchor and tensor.is_floating_point()

    def finish(self, effort: Effort) -> Sent:
        return self.keep(self.send)
