"""Training of both stages: the codec alone, then codec and hash module jointly.

The quality is random for every patch of every step: one model learns all rates, and codes are learned from latents of
all rates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from eoforge.codec.learned.model import Codec
from eoforge.codec.raster import ALIGNMENT, factor_of
from eoforge.data.bands import MODALITIES
from eoforge.data.labels import CLASSES
from eoforge.data.loading.batch import PatchBatch
from eoforge.errors import UsageError
from eoforge.geo.footprint import PATCH_METRES
from eoforge.hashing.packing import pack_torch
from eoforge.index.search import HammingIndex
from eoforge.methods.learner import Learner
from eoforge.methods.pairs import code_recall, random_flips
from eoforge.methods.rs_jcif.config import Compression, JointStage
from eoforge.methods.rs_jcif.gradients import joint_loss
from eoforge.methods.rs_jcif.loss import Keys, hash_terms
from eoforge.methods.rs_jcif.pairwise import MemoryBank
from eoforge.methods.rs_jcif.windows import mirrored, window
from eoforge.metrics.retrieval import Denominator, Relevance, mean_average_precision
from eoforge.nn.build import seeded
from eoforge.nn.distributed import gather_rows

_SIDE = PATCH_METRES // 10
_SCORE_HITS = 11  # the query and ten others


class Teacher(Protocol):
    """An encoder whose features are the label-free target."""

    def encode(
        self, batch: PatchBatch, modality: str
    ) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
        """See :class:`eoforge.index.encoder.Encoder`."""


def rate_distortion(codec: Codec, batch: PatchBatch, quality_B: Tensor, modality: str) -> Rates:
    """The loss ``L = R + lambda(q) D`` of one sensor, mean over patches.

    R is in bits per 10 m pixel; D is the mean squared error over all samples of the sensor in units of its mean
    variance, with equal weights of all samples, as in PSNR over the sensor. It is ``L = R + lambda 255^2 MSE`` of
    CompressAI (*confirmed*) in another unit (*ours*).
    """
    branch, grids, config = codec.branch(modality), codec.grids(batch, modality), codec.config
    side = max(pixels.shape[-1] * factor_of(band) for band, pixels in grids.items())
    out = branch(grids, (side, side), quality_B)
    ladder = config.lambda_max / config.lambda_min
    lambda_B = config.lambda_min * ladder ** (quality_B / (config.steps - 1))
    bits_B = -sum(likelihood.log2().sum(dim=(1, 2, 3)) for likelihood in out.likelihoods.values())
    assert isinstance(bits_B, Tensor)
    error_B = torch.zeros_like(quality_B)
    samples = 0
    for band, decoded in out.x_hat.items():
        error_B = error_B + (decoded.float() - grids[band].float()).square().sum(dim=(1, 2))
        samples += decoded[0].numel()
    distortion_B = error_B / samples / branch.cells.scale**2
    rate_B = bits_B / side**2
    loss = (rate_B + lambda_B * distortion_B).mean()
    return Rates(loss, rate_B.mean(), (error_B / samples).mean(), out.logits)


@dataclasses.dataclass(frozen=True)
class Rates:
    """Loss, bits per 10 m pixel and mean squared error in stored units (means over patches); hash logits ``[B, K]``."""

    loss: Tensor
    bpp: Tensor
    mse: Tensor
    logits: Tensor


class CompressionLearner(Learner):
    """Training of the first stage.

    Args:
        config: Settings.
        codec: Codec with initial weights.
    """

    def __init__(self, config: Compression, codec: Codec) -> None:
        super().__init__()
        self.config, self.codec = config, codec
        for name, parameter in codec.named_parameters():
            # The hash module has no gradient in this stage, which DDP must know.
            parameter.requires_grad_(".hash." not in name)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups of three learning rates: randomly initialised weights, non-linear paths, and linear paths.

        At the highest quality a relative error of 1e-3 in the linear path costs bits, so its steps are small.
        """
        rates: dict[str, tuple[list[nn.Parameter], float]] = {
            ".linear.": ([], self.config.linear_rate),
            ".nonlinear.": ([], self.config.transform_rate),
            "": ([], 1.0),
        }
        for name, parameter in self.named_parameters():
            next(group for part, (group, _) in rates.items() if part in name).append(parameter)
        return [{"params": group, "scale": scale} for group, scale in rates.values()]

    def losses(self, batch: PatchBatch, epoch: int) -> dict[str, Tensor]:
        batch, quality_B = self._drawn(batch, epoch)
        terms: dict[str, Tensor] = {}
        total = torch.zeros((), device=quality_B.device)
        for modality in self.config.bands:
            rates = rate_distortion(self.codec, batch, quality_B, modality)
            total = total + rates.loss
            terms |= {f"bpp_{modality}": rates.bpp, f"mse_{modality}": rates.mse}
        return {"loss": total, **terms}

    def score(self, batches: Iterator[PatchBatch]) -> dict[str, float]:
        """The negative loss over all qualities, as ``score``, with rates and errors."""
        return _means([self._scored(batch)[0] for batch in batches])

    def _drawn(self, batch: PatchBatch, epoch: int) -> tuple[PatchBatch, Tensor]:
        """A random window of the batch, flipped at random, and a random quality per patch; torch is seeded per step."""
        if self.config.flips:
            batch = mirrored(batch, random_flips(batch, self.config.seed, epoch))
        places = (_SIDE - self.config.crop) // ALIGNMENT + 1
        row, column = (ALIGNMENT * int(torch.randint(places, ())) for _ in range(2))
        batch = window(batch, row, column, self.config.crop)
        device = batch.label_mask.device
        return batch, (torch.rand(len(batch)) * (self.config.steps - 1)).to(device)

    def _scored(self, batch: PatchBatch) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Figures and hash logits of a batch with qualities spread evenly over its patches."""
        device = batch.label_mask.device
        quality_B = torch.linspace(0, self.config.steps - 1, len(batch), device=device)
        figures, logits, total = {"patches": float(len(batch))}, {}, 0.0
        for modality in self.config.bands:
            rates = rate_distortion(self.codec, batch, quality_B, modality)
            total += float(rates.loss)
            figures |= {f"bpp_{modality}": float(rates.bpp), f"mse_{modality}": float(rates.mse)}
            logits[modality] = rates.logits
        return {"score": -total, **figures}, logits


class JointLearner(CompressionLearner):
    """Training of the second stage.

    Args:
        config: Settings.
        codec: Codec of the first stage.
        teacher: Encoder for ``similarity=teacher``, on the training device.
    """

    def __init__(self, config: JointStage, codec: Codec, teacher: Teacher | None = None) -> None:
        super().__init__(config, codec)
        self.stage = config
        self._teacher = (teacher,)  # in a tuple, so that its weights are not registered in this module
        self.classifier = seeded(lambda: nn.Linear(config.bits, len(CLASSES)), config.seed)
        labelled = config.similarity == "labels"
        self.classifier.requires_grad_(labelled)
        for name, parameter in codec.named_parameters():
            parameter.requires_grad_(config.tasks == "both" or ".hash." in name or ".analysis." in name)
        key = torch.zeros((), dtype=torch.int64)
        if config.similarity == "teacher":
            if teacher is None:
                raise UsageError("similarity=teacher needs a teacher")
            key = torch.zeros(getattr(teacher, "embedding_dim"))  # noqa: B009
        self.bank = MemoryBank(config.bank, config.bits, key) if config.bank else None

    def weights(self) -> tuple[dict[str, list[nn.Parameter]], tuple[list[nn.Parameter], list[nn.Parameter]]]:
        """Weights shared by both tasks, by sensor; weights of compression alone and of hashing alone."""
        shared: dict[str, list[nn.Parameter]] = {modality: [] for modality in self.stage.bands}
        compression, hashing = [], list(self.classifier.parameters())
        for modality in self.stage.bands:
            for name, parameter in self.codec.branch(modality).named_parameters():
                if name.startswith("hash."):
                    hashing.append(parameter)
                elif name.startswith(("analysis.", "log_gain", "log_inverse")):
                    shared[modality].append(parameter)
                else:
                    compression.append(parameter)
        return shared, (compression, [p for p in hashing if p.requires_grad])

    def losses(self, batch: PatchBatch, epoch: int) -> dict[str, Tensor]:
        keys = self._keys(batch)
        batch, quality_B = self._drawn(batch, epoch)
        logits: dict[str, Tensor] = {}
        terms: dict[str, Tensor] = {}
        if self.stage.tasks == "hash":
            for modality in self.stage.bands:
                branch, grids = self.codec.branch(modality), self.codec.grids(batch, modality)
                y = branch.latent(branch.pack(grids, (self.stage.crop, self.stage.crop)))
                logits[modality] = gather_rows(branch.hash(y / branch.channel_scale[:, None, None]))
            hashing = self._hash_terms(logits, keys)
            return {"loss": self.stage.hash_weight * hashing["hash"], **hashing}
        compression = torch.zeros((), device=quality_B.device)
        for modality in self.stage.bands:
            rates = rate_distortion(self.codec, batch, quality_B, modality)
            logits[modality] = gather_rows(rates.logits)
            compression = compression + rates.loss
            terms |= {f"bpp_{modality}": rates.bpp, f"mse_{modality}": rates.mse}
        hashing = self._hash_terms(logits, keys)
        loss, manipulation = joint_loss(
            compression,
            self.stage.hash_weight * hashing["hash"],
            *self.weights(),
            self.stage.rule,
            self.stage.fixed_weight,
        )
        return {"loss": loss, "compression": compression, **terms, **hashing, **manipulation}

    def _hash_terms(self, logits: Mapping[str, Tensor], keys: Keys) -> dict[str, Tensor]:
        classes = None
        if self.stage.similarity == "labels":
            classes = torch.stack([self.classifier(x.float().tanh()) for x in logits.values()])
        return hash_terms(logits, classes, keys, self.bank if self.training else None, self.stage)

    def _keys(self, batch: PatchBatch, gather: Callable[[Tensor], Tensor] = gather_rows) -> Keys:
        """Targets of the pairwise loss for the patches of all ranks; a teacher encodes them without flips."""
        masks = gather(batch.label_mask)
        (teacher,) = self._teacher
        if self.stage.similarity != "teacher" or teacher is None:
            return Keys(masks)
        device = batch.label_mask.device
        features = [torch.from_numpy(teacher.encode(batch, m)[1]).to(device) for m in self.stage.bands]
        return Keys(masks, torch.stack([gather(f) for f in features]))

    def score(self, batches: Iterator[PatchBatch]) -> dict[str, float]:
        """The negative sum of both losses, as ``score``, with rates, errors and the retrieval of the codes."""
        figures, masks = [], []
        codes: dict[str, list[Tensor]] = {modality: [] for modality in self.stage.bands}
        for batch in batches:
            row, logits = self._scored(batch)
            # Every rank scores the same patches, so nothing is gathered.
            hashing = float(self._hash_terms(logits, self._keys(batch, lambda rows: rows))["hash"])
            rate = 0.0 if self.stage.tasks == "hash" else row["score"]
            figures.append({**row, "score": rate - self.stage.hash_weight * hashing})
            masks.append(batch.label_mask.cpu())
            for modality, rows in logits.items():
                codes[modality].append(pack_torch(rows).cpu())
        packed = {modality: torch.cat(parts) for modality, parts in codes.items()}
        out = _means(figures) | {
            f"map@10_{modality}": _own_map(rows, torch.cat(masks)) for modality, rows in packed.items()
        }
        if len(packed) == len(MODALITIES):
            out |= {name: value for name, value in code_recall(packed).items() if name != "score"}
        return out


def _own_map(codes: Tensor, masks: Tensor) -> float:
    """mAP@10 at Jaccard >= 0.5 of codes among themselves, without the query in its results."""
    packed, labels = codes.numpy(), masks.numpy().astype(np.uint32)
    hits = HammingIndex(packed).search(packed, _SCORE_HITS)[1]
    own = np.arange(len(packed))[:, None]
    rest = np.stack([row[row != i][: _SCORE_HITS - 1] for i, row in zip(own[:, 0], hits, strict=True)])
    return mean_average_precision(labels, labels[rest], labels, Relevance.JACCARD, Denominator.ARCHIVE)


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    total = sum(row["patches"] for row in rows)
    return {n: sum(row[n] * row["patches"] for row in rows) / total for n in rows[0] if n != "patches"}
