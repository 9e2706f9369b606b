"""Objectives of the baselines; the README says what of each was read in released code.

Shape legend: B inputs of this rank, N of all ranks. All terms are means over the inputs of all ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from eoforge.methods.dml_s2r import loss
from eoforge.methods.dml_s2r.config import Config
from eoforge.methods.dml_s2r.inference import Coreg, Direct, Inference, Neighbours, build
from eoforge.methods.dml_s2r.model import ValueNetwork
from eoforge.methods.dml_s2r.objective import DmlS2r, Frozen, Objective, Student, View
from eoforge.nn.build import seeded
from eoforge.nn.distributed import gather_rows

SAMPLES = 5
"""Draws of dropout from which UCVME makes its pseudo-labels."""


def mean_of(losses_N: Tensor, chosen_N: Tensor) -> Tensor:
    """Mean over the chosen inputs; zero if there is none."""
    return torch.where(chosen_N, losses_N, 0.0).sum() / chosen_N.sum().clamp(min=1)


class Supervised(Objective):
    """Squared error on labelled inputs; also the network whose features COREG takes on images."""

    def losses(self, view: View, values_B: Tensor, epoch: int) -> dict[str, Tensor]:
        outputs_N2 = gather_rows(self.network(view(False)))
        task = self.task_term(outputs_N2, gather_rows(values_B))
        return {"loss": task + 0 * outputs_N2.sum(), "task": task}

    @property
    def network(self) -> ValueNetwork:
        """The network that learns."""
        if isinstance(self.inference, Coreg):
            return cast("ValueNetwork", self.inference.network)
        return cast("ValueNetwork", cast("Direct", self.inference).networks[0])

    def task_term(self, outputs_N2: Tensor, values_N: Tensor) -> Tensor:
        """Squared error of the labelled inputs."""
        known_N = ~values_N.isnan()
        return mean_of((outputs_N2[:, 0] - values_N.nan_to_num()).square(), known_N)


class MeanTeacher(Supervised):
    """Agreement with the average of the network's weights under another view (Tarvainen and Valpola, 2017).

    The average, which is the teacher, predicts.
    """

    def __init__(self, config: Config, inference: Direct) -> None:
        super().__init__(config, inference)
        self.student = Student(self.network)

    def losses(self, view: View, values_B: Tensor, epoch: int) -> dict[str, Tensor]:
        self.student.lead(self.network, self.config.average)
        outputs_N2, values_N = gather_rows(self.student.network(view(False))), gather_rows(values_B)
        with torch.no_grad():
            taught_N2 = gather_rows(self.network(view(False)))
        task = self.task_term(outputs_N2, values_N)
        agreement = mean_of((outputs_N2[:, 0] - taught_N2[:, 0]).square(), values_N.isnan())
        total = task + self.config.unlabelled_weight * self.ramp(epoch) * agreement + 0 * outputs_N2.sum()
        return {"loss": total, "task": task, "unlabelled": agreement}


class SelfTraining(Supervised):
    """Pseudo-labels of a frozen copy, renewed each epoch, after a first half without them (*ours* in its details)."""

    def __init__(self, config: Config, inference: Direct) -> None:
        super().__init__(config, inference)
        self.teacher = Frozen(inference.networks[0])

    def losses(self, view: View, values_B: Tensor, epoch: int) -> dict[str, Tensor]:
        inputs = view(False)
        outputs_N2, values_N = gather_rows(self.network(inputs)), gather_rows(values_B)
        task, pseudo = self.task_term(outputs_N2, values_N), outputs_N2.new_zeros(())
        if epoch >= self.config.epochs // 2:
            self.teacher.refresh(self.network, epoch)
            with torch.no_grad():
                taught_N2 = gather_rows(self.teacher.network(view(False)))
            pseudo = mean_of((outputs_N2[:, 0] - taught_N2[:, 0]).square(), values_N.isnan())
        return {
            "loss": task + self.config.unlabelled_weight * pseudo + 0 * outputs_N2.sum(),
            "task": task,
            "unlabelled": pseudo,
        }


class Tnnr(Objective):
    """Twin network regression: differences of labelled pairs, and loops ``f(a,b) + f(b,c) + f(c,a) = 0`` of all inputs.

    Abstracts alone were read (arXiv 2012.14873 and 2106.06124): pairs, loops and the mean over all labelled anchors.
    f is not made antisymmetric in training; its weight on loops is *ours*.
    """

    def losses(self, view: View, values_B: Tensor, epoch: int) -> dict[str, Tensor]:
        twin = cast("Neighbours", self.inference).twin
        features_ND, values_N = gather_rows(twin.encoder(view(False))), gather_rows(values_B)
        all_NN = twin.difference.one_way(features_ND, features_ND)
        known_N = ~values_N.isnan()
        pairs = loss.pair_loss(all_NN[known_N][:, known_N], values_N[known_N])
        a, b, c = (torch.roll(torch.arange(len(values_N), device=values_N.device), shift) for shift in (0, 1, 2))
        loops = (all_NN[a, b] + all_NN[b, c] + all_NN[c, a]).square().mean()
        total = pairs + self.config.unlabelled_weight * self.ramp(epoch) * loops
        return {"loss": total, "pairs": pairs, "unlabelled": loops}


class Ucvme(Objective):
    """Two networks with a variance each, which agree on it and average their draws as pseudo-labels (Dai et al., 2023).

    *Confirmed* by the released code, but for the weight of unlabelled inputs (10 there) and its ramp.
    """

    def losses(self, view: View, values_B: Tensor, epoch: int) -> dict[str, Tensor]:
        inputs = view(False)
        networks = [cast("ValueNetwork", network) for network in cast("Direct", self.inference).networks]
        features = [network.encoder(inputs) for network in networks]
        outputs = [gather_rows(n.head(f)) for n, f in zip(networks, features, strict=True)]
        values_N = gather_rows(values_B)
        with torch.no_grad():
            draws = [n.head(f.detach()) for _ in range(SAMPLES) for n, f in zip(networks, features, strict=True)]
            taught_N2 = gather_rows(torch.stack(draws).mean(dim=0))
        mean_N2, log_N2 = (torch.stack([one[:, i] for one in outputs], dim=1) for i in (0, 1))
        known_N, shared_N = ~values_N.isnan(), log_N2.mean(dim=1)
        task = mean_of(_likelihood(mean_N2, values_N.nan_to_num(), shared_N), known_N)
        spread = mean_of((log_N2[:, 0] - log_N2[:, 1]).square(), known_N)
        pseudo = mean_of(
            _likelihood(mean_N2, taught_N2[:, 0], taught_N2[:, 1]) + (log_N2 - taught_N2[:, 1:]).square().sum(dim=1),
            ~known_N,
        )
        total = task + spread + self.config.unlabelled_weight * self.ramp(epoch) * pseudo
        return {"loss": total, "task": task, "unlabelled": pseudo}


def _likelihood(mean_N2: Tensor, values_N: Tensor, log_N: Tensor) -> Tensor:
    """``1/2 (exp(-z) (y - mean)^2 + z)``, summed over both networks."""
    return (0.5 * ((-log_N).exp()[:, None] * (mean_N2 - values_N[:, None]).square() + log_N[:, None])).sum(dim=1)


class RankUp(Supervised):
    """An auxiliary classifier of the order of two inputs, with confident orders of weak views as labels of strong ones.

    With alignment of pseudo-labels to the distribution of the labels (RDA). *Confirmed* by the released code, but for
    the alignment, which is made within a batch here and over the whole set, every 1,024 steps, there.
    """

    def __init__(self, config: Config, inference: Direct) -> None:
        super().__init__(config, inference)
        self.order = seeded(lambda: nn.Linear(config.embedding, 2), config.seed)

    def losses(self, view: View, values_B: Tensor, epoch: int) -> dict[str, Tensor]:
        weak_ND = gather_rows(self.network.encoder(view(False)))
        strong_ND = gather_rows(self.network.encoder(view(True)))
        outputs_N2, values_N = self.network.head(weak_ND), gather_rows(values_B)
        known_N = ~values_N.isnan()
        task = self.task_term(outputs_N2, values_N)
        order = self._order_term(weak_ND[known_N], values_N[known_N])
        pseudo, agreement = outputs_N2.new_zeros(()), outputs_N2.new_zeros(())
        if bool((~known_N).any()) and bool(known_N.any()):
            raw_U = outputs_N2[~known_N, 0]
            pseudo = (raw_U - _aligned(raw_U.detach(), values_N[known_N])).square().mean()
            agreement = self._agreement(weak_ND[~known_N], strong_ND[~known_N])
        unlabelled = self.config.unlabelled_weight * (self.ramp(epoch) * pseudo + agreement)
        total = task + order + unlabelled + 0 * (outputs_N2.sum() + self.order(strong_ND).sum())
        return {"loss": total, "task": task, "order": order, "unlabelled": pseudo}

    def _pairs(self, features_ND: Tensor) -> Tensor:
        """Logits ``[N * N, 2]`` of the order of all pairs."""
        scores_N2: Tensor = self.order(features_ND)
        return (scores_N2[None] - scores_N2[:, None]).flatten(0, 1)

    def _order_term(self, features_ND: Tensor, values_N: Tensor) -> Tensor:
        if len(values_N) < 2:
            return features_ND.sum() * 0
        first_P = ((1 + (values_N[None] - values_N[:, None]).sign()) / 2).flatten()
        truth_P2 = torch.stack([first_P, 1 - first_P], dim=1)
        return nn.functional.cross_entropy(self._pairs(features_ND), truth_P2)

    def _agreement(self, weak_ND: Tensor, strong_ND: Tensor) -> Tensor:
        believed = self._pairs(weak_ND).detach().softmax(dim=1).max(dim=1)
        losses_P = nn.functional.cross_entropy(self._pairs(strong_ND), believed.indices, reduction="none")
        return (losses_P * (believed.values >= self.config.confidence)).mean()


def _aligned(raw_U: Tensor, values_L: Tensor) -> Tensor:
    """Pseudo-labels of equal order whose distribution is that of the labels."""
    levels = torch.linspace(0, 1, len(raw_U), device=raw_U.device, dtype=values_L.dtype)
    aligned = torch.empty_like(raw_U)
    aligned[raw_U.argsort()] = torch.quantile(values_L, levels).to(raw_U.dtype)
    return aligned


def build_objective(config: Config, vector: int | None = None) -> Objective:
    """The objective of ``config.system`` with initial weights.

    Raises:
        UsageError: The network cannot be built.
    """
    inference: Inference = build(config, vector)
    if isinstance(inference, Neighbours):
        return DmlS2r(config, inference) if config.system == "dml_s2r" else Tnnr(config, inference)
    if isinstance(inference, Coreg):
        return Supervised(config, inference)
    direct = cast("Direct", inference)
    kinds: dict[str, Callable[[Config, Direct], Objective]] = {
        "mean_teacher": MeanTeacher,
        "self_training": SelfTraining,
        "ucvme": Ucvme,
        "rankup": RankUp,
        "supervised": Supervised,
    }
    return kinds[config.system](config, direct)
