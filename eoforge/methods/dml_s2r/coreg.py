"""COREG: two k-nearest-neighbour regressors label inputs for each other (Zhou and Li, IJCAI 2005).

Shape legend: R labelled inputs, P inputs of the pool, E length of an encoding, K neighbours.

An input counts as well labelled if its label lowers the error of the regressor on the neighbours of the input:
``delta_u = sum_{i in Omega_u} (y_i - h(x_i))^2 - (y_i - h'(x_i))^2``, h' being h with the input and its own prediction.
*Confirmed* by a released port, except that the port adds the true labels of the unlabelled inputs; here, as in the
paper's description, it is the regressor's prediction. As there, a labelled input is its own first neighbour.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eoforge.nn.seeds import derive_seed

NEIGHBOURS = 3
POWERS = (2.0, 5.0)
"""Orders of the two Minkowski distances."""
ROUNDS, POOL = 100, 100
Known = tuple[Tensor, Tensor]


def neighbour_mean(encoded_BE: Tensor, features_RE: Tensor, values_R: Tensor, power: float) -> Tensor:
    """Mean value ``[B]`` of the nearest labelled inputs."""
    count = min(NEIGHBOURS, len(values_R))
    near_BK = torch.cdist(encoded_BE, features_RE, p=power).topk(count, dim=1, largest=False).indices
    return values_R[near_BK].mean(dim=1)


def co_train(features_RE: Tensor, values_R: Tensor, pool_PE: Tensor, seed: int) -> tuple[Known, Known]:
    """The labelled inputs of both regressors, with those that the other one labelled for it."""
    known = [(features_RE, values_R), (features_RE, values_R)]
    left = torch.arange(len(pool_PE), device=pool_PE.device)
    for number in range(ROUNDS):
        generator = torch.Generator().manual_seed(derive_seed("coreg", seed, number))
        chosen = left[torch.randperm(len(left), generator=generator)[:POOL].to(left.device)]
        given: dict[int, tuple[int, float]] = {}
        for teacher, power in enumerate(POWERS):
            labels_P = neighbour_mean(pool_PE[chosen], *known[teacher], power)
            gains_P = _gains(pool_PE[chosen], labels_P, *known[teacher], power)
            if len(chosen) and float(gains_P.max()) > 0:
                best = int(gains_P.argmax())
                given[teacher] = (int(chosen[best]), float(labels_P[best]))
        if not given:
            break
        for teacher, (row, label) in given.items():
            features, values = known[1 - teacher]
            known[1 - teacher] = (
                torch.cat([features, pool_PE[row][None]]),
                torch.cat([values, values.new_tensor([label])]),
            )
        left = left[~torch.isin(left, left.new_tensor([row for row, _ in given.values()]))]
    return known[0], known[1]


def _gains(pool_PE: Tensor, labels_P: Tensor, features_RE: Tensor, values_R: Tensor, power: float) -> Tensor:
    """delta of each input of the pool, ``[P]``."""
    count = min(NEIGHBOURS, len(values_R))
    own = torch.cdist(features_RE, features_RE, p=power).topk(count, dim=1, largest=False)
    before_R = values_R[own.indices].mean(dim=1)
    distance_PK, omega_PK = torch.cdist(pool_PE, features_RE, p=power).topk(count, dim=1, largest=False)
    # A nearer input takes the place of the farthest of the K neighbours.
    enters_PK = distance_PK < own.values[:, -1][omega_PK]
    swapped_PK = before_R[omega_PK] + (labels_P[:, None] - values_R[own.indices[:, -1]][omega_PK]) / count
    after_PK = torch.where(enters_PK, swapped_PK, before_R[omega_PK])
    truth_PK = values_R[omega_PK]
    return ((truth_PK - before_R[omega_PK]).square() - (truth_PK - after_PK).square()).sum(dim=1)
