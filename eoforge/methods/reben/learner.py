"""Training of the reBEN baselines: losses of a batch, validation scores, and logits of scenes for the calibration."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from eoforge.data.labels import IGNORE_INDEX, NUM_CLASSES
from eoforge.data.loading.batch import PatchBatch
from eoforge.data.loading.prepare import Prepare, flipped
from eoforge.errors import DataRefused
from eoforge.methods.learner import Learner
from eoforge.methods.pairs import random_flips
from eoforge.methods.reben.config import Config
from eoforge.methods.reben.counts import Counts
from eoforge.methods.reben.loss import balanced_weights, pixel_loss, pixel_weights, scene_loss
from eoforge.methods.reben.model import build
from eoforge.methods.run import Normalisation
from eoforge.metrics.multilabel import labels_of_masks, multilabel_figures
from eoforge.metrics.pixels import confusion, pixel_measures
from eoforge.nn.build import seeded
from eoforge.nn.maps import map_presence, resized


class RebenLearner(Learner):
    """Base of both tasks: the network, the preparation of its input, the weights of the classes."""

    weight_L: Tensor

    def __init__(self, config: Config, normalisation: Normalisation, counts: Counts | None) -> None:
        super().__init__()
        self.config = config
        self.network = seeded(lambda: build(config), config.seed)
        self.prepare = nn.ModuleDict(
            {
                sensor: Prepare.of(bands, normalisation, config.size, config.interpolation)
                for sensor, bands in config.sensor_bands.items()
            }
        )
        # A buffer, so that all ranks take the numbers of rank 0.
        self.register_buffer("weight_L", torch.ones(NUM_CLASSES) if counts is None else self.weights(counts))

    def logits(self, batch: PatchBatch, flip: Tensor | None = None) -> Tensor:
        """The network's output for a batch."""
        predicted: Tensor = self.network.predict(self.images(batch, flip))
        return predicted

    def images(self, batch: PatchBatch, flip: Tensor | None = None) -> dict[str, Tensor]:
        """Input of the network by sensor, ``[B, C, S, S]`` each."""
        return {sensor: prepare(batch, flip) for sensor, prepare in self.prepare.items()}

    def flip(self, batch: PatchBatch, epoch: int) -> Tensor | None:
        """Random flips of a training batch, or None."""
        return random_flips(batch, self.config.seed, epoch) if self.config.flips else None

    @abstractmethod
    def weights(self, counts: Counts) -> Tensor:
        """Weights of the classes ``[L]``."""

    @abstractmethod
    def scene(self, logits: Tensor) -> Tensor:
        """Logits ``[B, L]`` of the presence of each class, from the network's output."""

    @torch.no_grad()
    def scene_logits(self, batches: Iterable[PatchBatch]) -> tuple[Tensor, Tensor]:
        """Logits of scenes and labels of all patches, ``[N, L]`` each, on the CPU."""
        logits, labels = [], []
        for batch in batches:
            logits.append(self.scene(self.logits(batch)).float().cpu())
            labels.append(labels_of_masks(batch.label_mask, NUM_CLASSES).cpu())
        return torch.cat(logits), torch.cat(labels)


class SceneLearner(RebenLearner):
    """Training of scene labels."""

    def weights(self, counts: Counts) -> Tensor:
        return balanced_weights(counts.classes_L, counts.total, self.config.positive_weight)

    def scene(self, logits: Tensor) -> Tensor:
        return logits

    def losses(self, batch: PatchBatch, epoch: int) -> dict[str, Tensor]:
        logits_BL = self.logits(batch, self.flip(batch, epoch))
        labels_BL = labels_of_masks(batch.label_mask, NUM_CLASSES)
        return {"loss": scene_loss(self.config)(logits_BL.float(), labels_BL, self.weight_L)}

    def score(self, batches: Iterator[PatchBatch]) -> dict[str, float]:
        """F1 and mean average precision; the score is the macro mean (*confirmed*)."""
        logits_NL, labels_NL = self.scene_logits(batches)
        figures = multilabel_figures(logits_NL.sigmoid(), labels_NL)
        return {**figures, "score": figures["map_macro"]}


class PixelLearner(RebenLearner):
    """Training of pixel maps; a map is brought to the network's size by its nearest pixels."""

    def weights(self, counts: Counts) -> Tensor:
        return pixel_weights(counts.classes_L, self.config.positive_weight)

    def scene(self, logits: Tensor) -> Tensor:
        return map_presence(logits)

    def losses(self, batch: PatchBatch, epoch: int) -> dict[str, Tensor]:
        flip = self.flip(batch, epoch)
        return {"loss": pixel_loss(self.config)(self.logits(batch, flip), self.classes(batch, flip), self.weight_L)}

    def classes(self, batch: PatchBatch, flip: Tensor | None = None) -> Tensor:
        """Classes of the pixels int64 ``[B, S, S]``, mirrored as the images."""
        return classes_of(batch, self.config.size, flip)

    def score(self, batches: Iterator[PatchBatch]) -> dict[str, float]:
        """Accuracy and mean intersection over union; the latter is the score (*ours*: the paper trains no maps)."""
        counts_LL = torch.zeros(NUM_CLASSES, NUM_CLASSES, dtype=torch.int64)
        for batch in batches:
            predicted = self.logits(batch).argmax(dim=1)
            counts_LL += confusion(predicted, classes_of(batch, self.config.size), NUM_CLASSES).cpu()
        figures = pixel_measures(counts_LL).averages
        return {**figures, "score": figures["iou_macro"]}


def classes_of(batch: PatchBatch, size: int, flip: Tensor | None = None) -> Tensor:
    """Class indices int64 ``[B, S, S]`` of the maps of a batch at ``size``, mirrored as the images.

    Raises:
        DataRefused: The batch has no map.
    """
    classes_BSS = resized(_classes(batch), size)
    return classes_BSS if flip is None else flipped(classes_BSS[:, None], flip)[:, 0]


def _classes(batch: PatchBatch) -> Tensor:
    if batch.reference_map is None or not bool((batch.reference_map != IGNORE_INDEX).any()):
        raise DataRefused(
            "pixel maps are trained and measured on reference maps; a batch of this table has none. Ingest an archive "
            "with Reference_Maps"
        )
    return batch.reference_map
