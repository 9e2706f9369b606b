"""Training on images by the common trainer: labels by patch id, views, and the score on folds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from eoforge.data.loading.batch import PatchBatch
from eoforge.data.loading.prepare import Prepare
from eoforge.methods.dml_s2r.config import Config
from eoforge.methods.dml_s2r.crossfit import CrossFit
from eoforge.methods.dml_s2r.labels import Labelled
from eoforge.methods.dml_s2r.model import stacked
from eoforge.methods.learner import Learner
from eoforge.methods.pairs import random_flips
from eoforge.methods.run import Normalisation
from eoforge.metrics.regression import regression_figures

STRONG = 3.0
"""Noise of a strong view over that of a weak one."""


class RegressionLearner(Learner):
    """Training of an objective on images.

    Args:
        config: Settings.
        normalisation: Of the bands.
        labelled: Labelled patches and their folds.
    """

    def __init__(self, config: Config, normalisation: Normalisation, labelled: Labelled) -> None:
        super().__init__()
        self.config = config
        self.networks = CrossFit(config, labelled)
        self.prepare = nn.ModuleDict(
            {
                sensor: Prepare.of(bands, normalisation, config.size, config.interpolation)
                for sensor, bands in config.sensor_bands.items()
            }
        )

    def images(self, batch: PatchBatch, flip: Tensor | None = None) -> Tensor:
        """Input of the network, ``[B, C, S, S]``."""
        images = {sensor: prepare(batch, flip) for sensor, prepare in self.prepare.items()}
        return stacked(images, tuple(images))

    def losses(self, batch: PatchBatch, epoch: int) -> dict[str, Tensor]:
        labels_PB = self.networks.labels(batch.patch_id).to(batch.label_mask.device)
        views = 0

        def view(strong: bool) -> Tensor:
            nonlocal views
            views += 1
            # Another number gives other flips: views of one batch differ.
            flip = random_flips(batch, self.config.seed + views, epoch) if self.config.flips else None
            return with_noise(self.images(batch, flip), self.config.jitter * (STRONG if strong else 1.0))

        return self.networks.losses(view, labels_PB, epoch)

    def score(self, batches: Iterator[PatchBatch]) -> dict[str, float]:
        """Measures on the folds; the score is the negative root of the mean squared error."""
        errors, _ = self.networks.errors(*self.encoded(batches))
        figures = regression_figures(errors, np.zeros_like(errors))
        return {"rmse": figures["rmse"], "mae": figures["mae"], "score": -figures["rmse"]}

    @torch.no_grad()
    def encoded(self, batches: Iterable[PatchBatch]) -> tuple[list[Tensor], list[str]]:
        """Encodings ``[N, E]`` of patches by each network, on its device, and their ids."""
        parts, names = [], []
        for batch in batches:
            parts.append(self.networks.encode(self.images(batch)))
            names += batch.patch_id
        return [torch.cat(one) for one in zip(*parts, strict=True)], names


def with_noise(inputs: Tensor, deviation: float) -> Tensor:
    """Inputs with normal noise; drawn by the generator of the step."""
    return inputs + deviation * torch.randn_like(inputs) if deviation else inputs
