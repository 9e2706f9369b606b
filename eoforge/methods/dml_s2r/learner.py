"""Training on images by the common trainer: labels by patch id, views, and the score on held-out patches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from eoforge.data.loading.batch import PatchBatch
from eoforge.data.loading.prepare import Prepare
from eoforge.methods.dml_s2r.baselines import build_objective
from eoforge.methods.dml_s2r.config import Config
from eoforge.methods.dml_s2r.inference import Inference
from eoforge.methods.dml_s2r.labels import Labelled
from eoforge.methods.dml_s2r.model import stacked
from eoforge.methods.learner import Learner
from eoforge.methods.pairs import random_flips
from eoforge.methods.run import Normalisation
from eoforge.metrics.regression import Intervals, regression_figures

STRONG = 3.0
"""Noise of a strong view over that of a weak one."""


class Encoded(NamedTuple):
    """Encodings ``[N, E]`` of patches, and their ids."""

    encodings: Tensor
    patches: list[str]


class RegressionLearner(Learner):
    """Training of an objective on images.

    Args:
        config: Settings.
        normalisation: Of the bands.
        labelled: Labelled patches; only those that train are seen by the objective.
    """

    def __init__(self, config: Config, normalisation: Normalisation, labelled: Labelled) -> None:
        super().__init__()
        self.config, self.labelled = config, labelled
        self.values = labelled.standardised()
        self.objective = build_objective(config)
        self.prepare = nn.ModuleDict(
            {
                sensor: Prepare.of(bands, normalisation, config.size, config.interpolation)
                for sensor, bands in config.sensor_bands.items()
            }
        )

    @property
    def inference(self) -> Inference:
        """What the bundle keeps."""
        return self.objective.inference

    def images(self, batch: PatchBatch, flip: Tensor | None = None) -> Tensor:
        """Input of the network, ``[B, C, S, S]``."""
        images = {sensor: prepare(batch, flip) for sensor, prepare in self.prepare.items()}
        return stacked(images, tuple(images))

    def losses(self, batch: PatchBatch, epoch: int) -> dict[str, Tensor]:
        values_B = torch.tensor(
            [self.values.get(name, float("nan")) for name in batch.patch_id], device=batch.label_mask.device
        )
        views = 0

        def view(strong: bool) -> Tensor:
            nonlocal views
            views += 1
            # Another number gives other flips: views of one batch differ.
            flip = random_flips(batch, self.config.seed + views, epoch) if self.config.flips else None
            return with_noise(self.images(batch, flip), self.config.jitter * (STRONG if strong else 1.0))

        return self.objective.losses(view, values_B, epoch)

    def score(self, batches: Iterator[PatchBatch]) -> dict[str, float]:
        """Measures on the held-out labelled patches; the score is the negative root of the mean squared error."""
        encoded = self.encoded(batches)
        errors, _ = self.held_errors(encoded)
        figures = regression_figures(errors, np.zeros_like(errors))
        return {"rmse": figures["rmse"], "mae": figures["mae"], "score": -figures["rmse"]}

    @torch.no_grad()
    def encoded(self, batches: Iterable[PatchBatch]) -> Encoded:
        """Encodings of patches, on the device of the network."""
        parts, names = [], []
        for batch in batches:
            parts.append(self.inference.encode(self.images(batch)).float())
            names += batch.patch_id
        return Encoded(torch.cat(parts), names)

    def held_errors(self, encoded: Encoded, pool: Tensor | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Errors and spreads of the held-out patches, in the unit of the target; all are remembered first."""
        truth = dict(zip(self.labelled.patches, self.labelled.values.tolist(), strict=True))
        vectors, (mean, deviation) = encoded.encodings, self.labelled.scale
        values_N = torch.tensor([(truth[name] - mean) / deviation for name in encoded.patches], device=vectors.device)
        held_N = torch.tensor([name not in self.values for name in encoded.patches], device=vectors.device)
        self.inference.remember(vectors, values_N, held_N, vectors[:0] if pool is None else pool)
        rows = held_N.nonzero()[:, 0]
        with torch.no_grad():
            found = self.inference.decide(vectors[rows], rows)
        predicted = found.value.double().cpu().numpy() * deviation + mean
        # Predictions are brought into the valid range, and intervals are made around them: so are the errors here.
        bounded = self.config.described_target().clipped(predicted)
        errors = bounded - np.array([truth[encoded.patches[int(row)]] for row in rows])
        return errors, found.spread.double().cpu().numpy() * deviation

    def intervals(self, encoded: Encoded, pool: Tensor | None = None) -> Intervals:
        """Rule for intervals from the held-out patches; references and, for COREG, pseudo-labels are made before."""
        return Intervals.fit(*self.held_errors(encoded, pool), self.config.level)


def with_noise(inputs: Tensor, deviation: float) -> Tensor:
    """Inputs with normal noise; drawn by the generator of the step."""
    return inputs + deviation * torch.randn_like(inputs) if deviation else inputs
