"""Training of GRID and RS-IRL-SVAE by the common trainer, for scene labels, pixel maps and relations of regions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from eoforge.data.labels import NUM_CLASSES
from eoforge.data.loading.batch import PatchBatch
from eoforge.losses.robust import Target
from eoforge.methods.noise_robust.config import RobustConfig
from eoforge.methods.noise_robust.model import RobustPixelNetwork, build
from eoforge.methods.noise_robust.objective import View
from eoforge.methods.noise_robust.relations import relations
from eoforge.methods.noise_robust.settings import build_objective
from eoforge.methods.reben.learner import PixelLearner, SceneLearner, classes_of
from eoforge.methods.run import Normalisation
from eoforge.metrics.multilabel import labels_of_masks
from eoforge.nn.build import seeded
from eoforge.nn.distributed import gather_rows

TARGETS: Mapping[str, Target] = {"scene": "multi", "pixels": "pixels", "relations": "vector"}


class _RobustLearner:
    """The part that both tasks share: the objective, and the number of each patch in the training split."""

    config: Any
    """A :class:`RobustConfig`; the two bases of each learner know it by different types."""
    network: Any
    """A :data:`RobustNetwork`, likewise."""

    def prepare_objective(self, name: str, patches: Sequence[str]) -> None:
        """Network and objective with initial weights.

        Args:
            name: ``grid`` or ``rs_irl_svae``.
            patches: Ids of the training split, in an order that does not depend on the rank.
        """
        config = self.config
        self.network = seeded(lambda: build(config), config.seed)
        self.row_of = {patch: row for row, patch in enumerate(patches)}
        self.objective = seeded(
            lambda: build_objective(
                name,
                config,
                TARGETS[config.task],
                features=self.network.features,
                outputs=config.outputs,
                samples=len(patches),
                non_negative=config.non_negative,
                fit=self.network.cut if isinstance(self.network, RobustPixelNetwork) else None,
            ),
            config.seed,
        )

    def terms(self, batch: PatchBatch, images: Mapping[str, Tensor], labels: Tensor, epoch: int) -> dict[str, Tensor]:
        """Terms of the objective over the batches of all ranks."""
        rows_B = torch.tensor([self.row_of[name] for name in batch.patch_id], device=labels.device)
        view = View(self.network.represent(images), self.network.classify)
        terms: dict[str, Tensor] = self.objective([view], gather_rows(labels), gather_rows(rows_B), epoch)
        return terms


class RobustSceneLearner(_RobustLearner, SceneLearner):
    """Training of scene labels."""

    def losses(self, batch: PatchBatch, epoch: int) -> dict[str, Tensor]:
        images = self.images(batch, self.flip(batch, epoch))
        return self.terms(batch, images, labels_of_masks(batch.label_mask, NUM_CLASSES), epoch)


class RobustPixelLearner(_RobustLearner, PixelLearner):
    """Training of pixel maps."""

    def losses(self, batch: PatchBatch, epoch: int) -> dict[str, Tensor]:
        flip = self.flip(batch, epoch)
        return self.terms(batch, self.images(batch, flip), self.classes(batch, flip), epoch)


class RobustRelationLearner(_RobustLearner, SceneLearner):
    """Training of relations of regions, which follow from the map that training reads."""

    def losses(self, batch: PatchBatch, epoch: int) -> dict[str, Tensor]:
        flip = self.flip(batch, epoch)
        return self.terms(batch, self.images(batch, flip), self.relations(batch, flip), epoch)

    def relations(self, batch: PatchBatch, flip: Tensor | None = None) -> Tensor:
        """Adjacencies ``[B, L (L + 1) / 2]`` of the maps."""
        return relations(classes_of(batch, self.config.size, flip), NUM_CLASSES)

    def score(self, batches: Iterator[PatchBatch]) -> dict[str, float]:
        """Mean squared error; the score is the share of the variance that is explained (*ours*)."""
        found, truth = [], []
        for batch in batches:
            found.append(self.logits(batch).float().cpu())
            truth.append(self.relations(batch).cpu())
        given_NE = torch.cat(truth)
        error = (torch.cat(found) - given_NE).square().mean()
        variance = given_NE.var(dim=0, correction=0).mean().clamp(min=1e-12)
        return {"squared_error": float(error), "score": float(1 - error / variance)}


RobustLearner = RobustSceneLearner | RobustPixelLearner | RobustRelationLearner
_LEARNERS: Mapping[str, type[RobustLearner]] = {
    "scene": RobustSceneLearner,
    "pixels": RobustPixelLearner,
    "relations": RobustRelationLearner,
}


def learner_of(name: str, config: RobustConfig, patches: Sequence[str]) -> Callable[[Normalisation], RobustLearner]:
    """Function from the normalisation to a learner with initial weights; arguments as in ``prepare_objective``."""

    def make(normalisation: Normalisation) -> RobustLearner:
        learner = _LEARNERS[config.task](config, normalisation, None)
        learner.prepare_objective(name, patches)
        return learner

    return make
