"""Cross-fitting: the network that is kept, and one more for each fold of the labels, which does not see that fold.

Their errors on their folds calibrate the intervals and choose the epoch, so that no label is lost to a held-out part.

Shape legend: P networks, B inputs, N labelled inputs, E length of an encoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np
import structlog
import torch
from torch import Tensor, nn

from eoforge.methods.dml_s2r.baselines import build_objective
from eoforge.methods.dml_s2r.config import Config
from eoforge.methods.dml_s2r.inference import Inference
from eoforge.methods.dml_s2r.labels import Labelled
from eoforge.methods.dml_s2r.objective import Objective, View
from eoforge.metrics.regression import INTERVALS, Floats, Intervals, least_held

log = structlog.get_logger("dml_s2r")


class CrossFit(nn.Module):
    """Objectives that train side by side on the same batches and views, each with its own labels.

    They share no weight, so that the first one is what it would be alone.

    Args:
        config: Settings.
        labelled: Labelled inputs and their folds.
        vector: Length of plain vectors; None for images.
    """

    def __init__(self, config: Config, labelled: Labelled, vector: int | None = None) -> None:
        super().__init__()
        self.config, self.labelled = config, labelled
        self.objectives = nn.ModuleList(build_objective(config, vector) for _ in labelled.left_out)
        self._values = [labelled.standardised(fold) for fold in labelled.left_out]

    @property
    def inference(self) -> Inference:
        """What the bundle keeps."""
        return self.inferences[0]

    @property
    def inferences(self) -> list[Inference]:
        """The inference of every network."""
        found = []
        for objective in self.objectives:
            assert isinstance(objective, Objective)
            found.append(objective.inference)
        return found

    def labels(self, names: Sequence[str]) -> Tensor:
        """Standardised labels ``[P, B]`` by id: NaN where a network sees none."""
        return torch.tensor([[values.get(name, float("nan")) for name in names] for values in self._values])

    def losses(self, view: View, labels_PB: Tensor, epoch: int) -> dict[str, Tensor]:
        """Terms of the first network; ``loss`` is the sum over all of them."""
        made: dict[tuple[int, bool], Tensor] = {}
        terms = []
        for objective, values_B in zip(self.objectives, labels_PB, strict=True):
            number = count()

            def shared(strong: bool, number: count[int] = number) -> Tensor:
                key = next(number), strong
                if key not in made:
                    made[key] = view(strong)
                return made[key]

            assert isinstance(objective, Objective)
            terms.append(objective.losses(shared, values_B, epoch))
        return {**terms[0], "loss": torch.stack([one["loss"] for one in terms]).sum()}

    def encode(self, inputs: Tensor) -> list[Tensor]:
        """Encodings ``[B, E]`` by each network."""
        return [inference.encode(inputs).float() for inference in self.inferences]

    @torch.no_grad()
    def errors(
        self, encoded: Sequence[Tensor], names: Sequence[str], pool: Sequence[Tensor] | None = None
    ) -> tuple[Floats, Floats]:
        """Errors and spreads on the folds, each by the network that did not see it, in the unit of the target.

        Args:
            encoded: Encodings of labelled inputs by each network.
            names: Their ids.
            pool: Encodings of unlabelled inputs, for COREG.
        """
        errors, spreads = [], []
        for number, fold in enumerate(self.labelled.left_out):
            out = self.labelled.in_fold(names, fold)
            if not out.any():
                continue
            inference, vectors = self.inferences[number], encoded[number]
            self._remember(number, vectors, names, ~out, pool)
            found = inference.decide(vectors[torch.from_numpy(out)])
            mean, deviation = self.labelled.scale(fold)
            value = found.value.double().cpu().numpy() * deviation + mean
            # Predictions are brought into the valid range, and intervals are made around them: so are the errors here.
            value = self.config.described_target().clipped(value)
            errors.append(value - self.labelled.truth(names)[out])
            spreads.append(found.spread.double().cpu().numpy() * deviation)
        return np.concatenate(errors), np.concatenate(spreads)

    def finish(
        self, encoded: Sequence[Tensor], names: Sequence[str], pool: Sequence[Tensor] | None = None
    ) -> Intervals:
        """Rule for intervals; the network that is kept then takes all labelled inputs as its references."""
        target = self.config.described_target()
        errors, spreads = self.errors(encoded, names, pool)
        rule = Intervals.fit(errors, spreads, self.config.level, target.low, target.high)
        if rule.kind != "conformal":
            log.warning(
                f"{rule.held} labelled patches are too few for intervals without an assumption",
                level=rule.level,
                needed=least_held(rule.level),
                interval=INTERVALS[rule.kind],
            )
        self._remember(0, encoded[0], names, np.ones(len(names), dtype=bool), pool)
        return rule

    @torch.no_grad()
    def _remember(
        self, number: int, vectors: Tensor, names: Sequence[str], known: np.ndarray, pool: Sequence[Tensor] | None
    ) -> None:
        mean, deviation = self.labelled.scale(self.labelled.left_out[number])
        values = torch.from_numpy((self.labelled.truth(names)[known] - mean) / deviation).float().to(vectors.device)
        others = vectors[:0] if pool is None else pool[number]
        self.inferences[number].remember(vectors[torch.from_numpy(known)], values, others)
