"""FedBN (Li et al. 2021): batch normalisation stays at home, everything else is averaged as in FedAvg.

gamma, beta and running statistics never reach another silo; a silo keeps its own. A model for places that were not in
the federation needs some: with ``unseen="average"`` silos also send theirs, the server averages them into the global
model, and no silo ever receives that (*ours*); with ``unseen="none"`` nothing of them travels and the global model
keeps the initial ones, good for silos only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from eoforge.errors import UsageError
from eoforge.federated.strategies.base import Averaging, floats, mean, require_updates, tensor_of
from eoforge.federated.strategies.objective import Effort, Local, Objective, Sent
from eoforge.federated.strategy import MODEL, Output, Reduction, RoundInfo, SiloInfo, Source, Start, name_of, split_name
from eoforge.storage.tensorfile import Specs

UNSEEN, OWN = "unseen", "own"
_AT_HOME = ("norm", "statistic")


def _at_home(state: Specs) -> dict[str, str]:
    """Full names of the tensors that stay -> name under which an average may be asked for."""
    return {n: name_of(UNSEEN, tensor_of(n)) for n, s in floats(state, MODEL).items() if s.role in _AT_HOME}


@dataclass(frozen=True)
class FedBN(Averaging):
    """Local batch normalisation.

    Attributes:
        unseen: Where the global model's own normalisation comes from.
    """

    name: ClassVar[str] = "fedbn"

    unseen: Literal["average", "none"] = "average"

    def start(self, model: Specs, silos: Sequence[SiloInfo]) -> Mapping[str, Start]:
        """Nothing beyond the model.

        Raises:
            UsageError: The model has no batch normalisation.
        """
        if not any(spec.role == "norm" for spec in model.values()):
            raise UsageError(
                "FedBN keeps batch normalisation at home, and this model has none; choose another backbone"
            )
        return {}

    def download(self, silo: SiloInfo, state: Specs) -> Mapping[str, str]:
        """Everything but batch normalisation."""
        return {n: n for n in floats(state, MODEL) if n not in _at_home(state)}

    def upload(self, silo: SiloInfo, state: Specs) -> Specs:
        """Deltas of the same; values of the rest where an average is wanted."""
        stay = _at_home(state)
        sent = super().upload(silo, {n: s for n, s in state.items() if n not in stay})
        return {**sent, **({new: state[n] for n, new in stay.items()} if self.unseen == "average" else {})}

    def reduction(self, info: RoundInfo, state: Specs, source: Source) -> Reduction:
        """FedAvg on what travels; averages of the rest for the global model alone."""
        require_updates(info)
        stay = _at_home(state)
        outputs = []
        for name, spec in floats(state, MODEL).items():
            if name not in stay:
                outputs += self.averaged(name, spec, info.updates)
            elif self.unseen == "average":
                outputs.append(Output(name, spec, (), (mean(stay[name], info.updates, self.weighting),)))
        return Reduction(tuple(outputs))

    def objective(self, local: Local) -> Objective:
        """Puts the silo's own normalisation into the model."""
        return _AtHome(local, self.unseen == "average")


class _AtHome(Objective):
    def __init__(self, local: Local, send: bool) -> None:
        super().__init__(local)
        self.send = send
        own = {tensor_of(n): t for n, t in local.state.items() if split_name(n)[0] == OWN}
        local.model.load_state_dict(own, strict=False)

    def finish(self, effort: Effort) -> Sent:
        tensors = self.local.model.state_dict()
        stay = {
            n: t.detach().clone() for n, t in tensors.items() if n not in self.local.anchor and t.is_floating_point()
        }
        sent = {name_of(UNSEEN, n): t for n, t in stay.items()} if self.send else {}
        return Sent(sent, state={name_of(OWN, n): t for n, t in stay.items()})
