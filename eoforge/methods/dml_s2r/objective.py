"""Interface of an objective, and the alternation of DML-S2R.

Shape legend: B inputs of this rank, N of all ranks. Labels are standardised, NaN for inputs without one. Every
objective also has an inference, which is what the bundle keeps.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from eoforge.methods.dml_s2r import loss
from eoforge.methods.dml_s2r.config import Config
from eoforge.methods.dml_s2r.inference import Inference, Neighbours
from eoforge.nn.distributed import gather_rows

ModuleT = TypeVar("ModuleT", bound=nn.Module)
View = Callable[[bool], Tensor]
"""Function to a random view of the inputs of a batch; True asks for a strong one."""


class Objective(nn.Module, ABC):
    """Loss terms of a batch.

    Attributes:
        inference: Networks that predict; they are trained.
    """

    def __init__(self, config: Config, inference: Inference) -> None:
        super().__init__()
        self.config, self.inference = config, inference

    @abstractmethod
    def losses(self, view: View, values_B: Tensor, epoch: int) -> dict[str, Tensor]:
        """``loss`` and further terms, all scalars, equal on all ranks."""

    def ramp(self, epoch: int) -> float:
        """Weight of unlabelled inputs: linear from 0 to 1 over the first 40 % of the epochs (*confirmed*: RankUp)."""
        return min(1.0, epoch / max(1.0, 0.4 * self.config.epochs))


class Frozen(nn.Module, Generic[ModuleT]):
    """A copy of a network that does not learn; it is part of the checkpoint.

    Attributes:
        network: The copy.
    """

    network: ModuleT
    phase: Tensor

    def __init__(self, network: ModuleT) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("phase", torch.tensor(-1))

    @torch.no_grad()
    def refresh(self, source: nn.Module, phase: int) -> None:
        """Copies ``source`` when ``phase`` is entered, and does nothing within it."""
        if int(self.phase) != phase:
            self.phase = torch.full_like(self.phase, phase)
            self.network.load_state_dict(source.state_dict())
        self.network.eval()


class Student(nn.Module, Generic[ModuleT]):
    """The network that learns, where an average of its weights over the steps predicts.

    Attributes:
        network: It begins as a copy of ``average``, which does not learn from then on.
    """

    network: ModuleT
    steps: Tensor

    def __init__(self, average: ModuleT) -> None:
        super().__init__()
        self.network = copy.deepcopy(average)
        self.register_buffer("steps", torch.tensor(0))
        average.requires_grad_(False)

    @torch.no_grad()
    def lead(self, average: nn.Module, decay: float) -> None:
        """Moves the weights of ``average`` towards those of the network, and copies buffers; once a step.

        The average begins as a plain mean, so that the initial weights do not count for long (*confirmed*: decay
        ``min(1 - 1 / (step + 1), decay)`` in the released code of the mean teacher).
        """
        decay = min(1 - 1 / (int(self.steps) + 1), decay)
        self.steps = self.steps + 1
        for weight, learned in zip(average.parameters(), self.network.parameters(), strict=True):
            weight.lerp_(learned, 1 - decay)
        for buffer, newest in zip(average.buffers(), self.network.buffers(), strict=True):
            buffer.copy_(newest)
        average.eval()


class DmlS2r(Objective):
    """The two steps: f^d from labelled pairs, then the metric and f^d from all inputs, in turn.

    In the second step a guide says which inputs have near targets, from another view: the average of the weights, which
    also predicts (*ours*). Triplets by its f^d train phi. Values from the nearest labelled inputs by its phi, the rule
    of the prediction, train f^d on unlabelled inputs: so each step guides the other one. Both train the same phi with
    one optimiser (*ours*: the reconstruction has one for each).
    """

    inference: Neighbours

    def __init__(self, config: Config, inference: Neighbours) -> None:
        super().__init__(config, inference)
        self.student = Student(inference.twin)

    def losses(self, view: View, values_B: Tensor, epoch: int) -> dict[str, Tensor]:
        guide, learner = self.inference.twin, self.student.network
        self.student.lead(guide, self.config.average)
        features_ND = gather_rows(learner.encoder(view(False)))
        values_N = gather_rows(values_B)
        known_N = ~values_N.isnan()
        pairs = self.pair_term(features_ND[known_N], values_N[known_N])
        if self.config.step(epoch) == 1:
            zero = torch.zeros_like(pairs)
            return {"loss": pairs, "pairs": pairs, "metric": zero, "unlabelled": zero}
        with torch.no_grad():
            guide_ND = gather_rows(guide.encoder(view(False)))
            difference_NN = guide.difference(guide_ND, guide_ND)
            pseudo_N = self.pseudo_values(guide_ND, difference_NN, values_N)
            mined_N = pseudo_N if self.config.mining == "pseudo" else values_N
            delta_NN = loss.target_distance(difference_NN, mined_N)
        metric = self.metric_term(features_ND, delta_NN)
        unlabelled = loss.pseudo_pair_loss(learner.difference(features_ND, features_ND), pseudo_N, known_N)
        # Ranks exchange the gradients of every parameter, so that f^d needs one even where its weights are 0.
        total = (
            self.config.metric_weight * metric
            + self.config.pair_weight * pairs
            + self.config.pseudo_weight * unlabelled
        )
        return {"loss": total, "pairs": pairs, "metric": metric, "unlabelled": unlabelled}

    def pseudo_values(self, guide_ND: Tensor, difference_NN: Tensor, values_N: Tensor) -> Tensor:
        """Labels, and for other inputs values from the nearest labelled ones of the batch; NaN if it has none."""
        if bool(values_N.isnan().all()):
            return values_N
        distance_NN = loss.square_distance(guide_ND)
        return loss.pseudo_values(difference_NN, distance_NN, values_N, self.config.neighbours)

    def pair_term(self, features_ND: Tensor, values_N: Tensor) -> Tensor:
        """Loss of the first step over labelled inputs."""
        return loss.pair_loss(self.student.network.difference(features_ND, features_ND), values_N)

    def metric_term(self, features_ND: Tensor, delta_NN: Tensor) -> Tensor:
        """Loss of the second step's triplets."""
        positives, negatives = loss.mine(delta_NN, self.config.mined)
        distance_NN = loss.square_distance(features_ND)
        if self.config.metric == "triplet":
            return loss.triplet_loss(distance_NN, positives, negatives, self.config.margin)
        return loss.log_ratio_loss(distance_NN, delta_NN, positives, negatives)
