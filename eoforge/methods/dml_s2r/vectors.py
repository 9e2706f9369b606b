"""Regression of plain vectors: the same objectives, batches, schedule and seeds as on images, whole in memory.

Shape legend: N vectors of the training set, M others, F length of a vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eoforge.data.targets import Target
from eoforge.index.predictor import Values
from eoforge.methods.dml_s2r.config import Config
from eoforge.methods.dml_s2r.crossfit import CrossFit
from eoforge.methods.dml_s2r.inference import Coreg, Inference
from eoforge.methods.dml_s2r.labels import Labelled, Rows, mixed_rows
from eoforge.methods.dml_s2r.learner import STRONG, with_noise
from eoforge.methods.schedule import relative_rate
from eoforge.metrics.regression import Floats, Intervals
from eoforge.nn.seeds import derive_seed


@dataclass(frozen=True)
class VectorModel:
    """Trained regressor of vectors.

    Attributes:
        inference: Predicts standardised values.
        scale: Mean and deviation of the target.
        intervals: Rule for intervals.
        inputs: Mean and deviation of each feature, ``[F]``.
        target: Its valid range holds for the predictions.
    """

    inference: Inference
    scale: tuple[float, float]
    intervals: Intervals
    inputs: tuple[Tensor, Tensor]
    target: Target

    @torch.no_grad()
    def predict(self, features_MF: Tensor) -> Values:
        """Values with intervals of vectors ``[M, F]``."""
        mean, deviation = self.scale
        found = self.inference.eval().decide(self.inference.encode(_standard(features_MF, self.inputs)))
        value = found.value.double().numpy() * deviation + mean
        half = self.intervals.half_width(found.spread.double().numpy() * deviation)
        return Values.of(value, half, self.target.low, self.target.high)


def fit_vectors(config: Config, features_NF: Tensor, rows: npt.NDArray[np.int64], values: Floats) -> VectorModel:
    """A regressor of plain vectors, trained from scratch.

    Args:
        config: Settings; those of images are not read.
        features_NF: Vectors of the training set, labelled or not.
        rows: Numbers of the labelled ones.
        values: Their targets, in the order of ``rows``.

    Raises:
        DataRefused: There are too few labelled vectors.
    """
    labelled = Labelled.choose({str(row): float(v) for row, v in zip(rows, values, strict=True)}, config, {})
    inputs = (features_NF.mean(dim=0), features_NF.std(dim=0).clamp(min=1e-6))
    standard_NF = _standard(features_NF, inputs)
    networks = CrossFit(config, labelled, standard_NF.shape[1])
    inference = networks.inference
    if not (isinstance(inference, Coreg) and inference.network is None):
        _train(networks, standard_NF, np.sort([int(name) for name in labelled.trained()]))
    networks.eval()
    others = torch.from_numpy(np.setdiff1d(np.arange(len(standard_NF)), rows))
    with torch.no_grad():
        encoded = networks.encode(standard_NF[[int(name) for name in labelled.patches]])
        pool = networks.encode(standard_NF[others[: inference.pool]])
    intervals = networks.finish(encoded, labelled.patches, pool)
    return VectorModel(inference, labelled.scale(labelled.left_out[0]), intervals, inputs, config.described_target())


def _train(networks: CrossFit, standard_NF: Tensor, known: Rows) -> None:
    config, everything = networks.config, np.arange(len(standard_NF))
    labels_PN = networks.labels([str(row) for row in everything])
    parameters = [p for p in networks.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, config.beta2)
    )
    steps = max(1, len(everything) // config.batch_size)
    networks.train()
    for epoch in range(config.epochs):
        part = config.labelled_part(epoch)
        for number in range(steps):
            torch.manual_seed(derive_seed("step", config.seed, epoch, number, 0))
            place, total = epoch * steps + number, config.epochs * steps
            rate = relative_rate(place, total, config.warmup_epochs * steps, config.schedule)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * rate
            rows = mixed_rows(known, everything, config.batch_size, part, config.seed, epoch, number)
            batch = torch.from_numpy(rows)
            inputs = standard_NF[batch]

            def view(strong: bool, inputs: Tensor = inputs) -> Tensor:
                return with_noise(inputs, config.jitter * (STRONG if strong else 1.0))

            terms = networks.losses(view, labels_PN[:, batch], epoch)
            optimizer.zero_grad(set_to_none=True)
            terms["loss"].backward()  # type: ignore[no-untyped-call]  # torch has no types for it
            optimizer.step()


def _standard(features_MF: Tensor, inputs: tuple[Tensor, Tensor]) -> Tensor:
    return (features_MF - inputs[0]) / inputs[1]
