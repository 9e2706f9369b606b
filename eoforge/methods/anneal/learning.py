"""One round of ANNEAL on cached features: training of the head on annotated pairs, and the choice of the next ones."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eoforge.hashing.packing import pack_torch
from eoforge.methods.anneal.config import Config
from eoforge.methods.anneal.loss import balance, objective, pair_distances
from eoforge.methods.anneal.model import PairHead, pair_descriptors, pair_features
from eoforge.methods.anneal.pool import Rows, bootstrap, generator, pool_pairs
from eoforge.methods.anneal.selection import Scored, choose
from eoforge.methods.anneal.uncertainty import bcgue, metric_threshold, mgue
from eoforge.methods.schedule import relative_rate
from eoforge.nn.build import seeded
from eoforge.nn.seeds import derive_seed

_ANCHORS = 128
_ROWS = 16_384


@dataclass(frozen=True)
class Known:
    """Annotated pairs: rows ``[T, 2]`` and whether they are similar, ``[T]`` bool."""

    pairs: Rows
    similar: npt.NDArray[np.bool_]


class PairLearner:
    """Learner of similarity from pairs of an archive's patches.

    Every call is a function of its arguments, the settings and the features: a run that stopped goes on as if it had
    not.

    Args:
        features_NF: Float32 features of the encoder, one row per patch of the pool.
        config: Settings.
    """

    def __init__(self, features_NF: Tensor, config: Config) -> None:
        self.features, self.config = features_NF, config

    def initial(self) -> PairHead:
        """Head before the first answer: principal components of the features."""
        config = self.config
        head = seeded(lambda: PairHead(self.features.shape[1], config.bits, config.hidden), config.seed)
        head.start_from(self.features, config.seed)
        return head.eval()

    def first_pairs(self, head: PairHead) -> Rows:
        """The first batch ``[bootstrap, 2]``; see :func:`~eoforge.methods.anneal.pool.bootstrap`."""
        draw = generator(self.config, "bootstrap", 0)
        return bootstrap(self.codes(head), self.config.bootstrap, draw)

    def train(self, start: PairHead, known: Known, iteration: int) -> tuple[PairHead, dict[str, float]]:
        """A trained copy of ``start``, and the means of its loss terms over the last epoch.

        Args:
            start: Weights to begin with: the last ones or the initial ones.
            known: Annotated pairs; without any, ``start`` is returned unchanged.
            iteration: Number of the batch, which the random numbers depend on.
        """
        head = copy.deepcopy(start).train()
        config = self.config
        if not len(known.pairs):
            return head.eval(), {}
        optimizer = torch.optim.AdamW(head.parameters(), weight_decay=config.weight_decay, betas=(0.9, config.beta2))
        config = replace(config, anchor_weight=config.anchor_weight / len(known.pairs))
        pairs, similar = torch.from_numpy(known.pairs), torch.from_numpy(known.similar)
        weight = balance(similar)
        reference = self.initial()
        per_epoch = -(-len(pairs) // config.batch_size)
        means: dict[str, float] = {}
        for epoch in range(config.epochs):
            draw = torch.Generator().manual_seed(derive_seed("epoch", config.seed, iteration, epoch))
            order = torch.randperm(len(pairs), generator=draw)
            sums: dict[str, float] = {}
            for number, rows in enumerate(torch.split(order, config.batch_size)):
                rate = relative_rate(
                    epoch * per_epoch + number,
                    config.epochs * per_epoch,
                    config.warmup_epochs * per_epoch,
                    config.schedule,
                )
                optimizer.param_groups[0]["lr"] = config.learning_rate * rate
                first, second = (self.features[pairs[rows, side]] for side in (0, 1))
                anchors = self.features[torch.randint(len(self.features), (_ANCHORS,), generator=draw)]
                with torch.no_grad():
                    before = reference.embed(anchors)
                terms = objective(
                    head, (first, second), similar[rows], weight[rows], (anchors, before @ before.T), config
                )
                optimizer.zero_grad()
                torch.autograd.backward(terms["loss"])
                optimizer.step()
                for name, value in terms.items():
                    sums[name] = sums.get(name, 0.0) + float(value.detach()) / per_epoch
            means = sums
        return head.eval(), means

    def choose(self, head: PairHead, known: Known, asked_A2: Rows, number: int, iteration: int) -> Rows:
        """The next batch ``[number, 2]``, most uncertain first; fewer if the pool has fewer.

        Args:
            head: The current model.
            known: Annotated pairs, which give MGUE its threshold.
            asked_A2: All pairs that were asked, with or without an answer; none of them is chosen.
            number: Number of pairs.
            iteration: Number of the batch, which the random numbers depend on.
        """
        pool = self.score(head, known, pool_pairs(self.codes(head), asked_A2, self.config, iteration))
        asked = self._pair_values(head, asked_A2)[1]
        draw = generator(self.config, "choice", iteration)
        return choose(pool, asked_A2, asked, number, self.config, draw, len(self.features))

    @torch.inference_mode()
    def score(self, head: PairHead, known: Known, pairs_P2: Rows) -> Scored:
        """Pairs with their uncertainty and descriptors."""
        distance, descriptor, features, probability = self._pair_values(head, pairs_P2)
        if self.config.uncertainty == "bcgue":
            uncertainty = bcgue(probability)
        else:
            annotated = self._pair_values(head, known.pairs)[0]
            uncertainty = mgue(distance, metric_threshold(annotated, known.similar, distance))
        return Scored(pairs_P2, uncertainty, descriptor, features, probability)

    @torch.inference_mode()
    def embed(self, head: PairHead, features_NF: Tensor | None = None) -> Tensor:
        """Embeddings ``[N, K]`` of the archive, or of other features."""
        rows = self.features if features_NF is None else features_NF
        return torch.cat([head.embed(part) for part in torch.split(rows, _ROWS)])

    def codes(self, head: PairHead, features_NF: Tensor | None = None) -> npt.NDArray[np.uint8]:
        """Packed codes ``[N, K/8]`` of the archive, or of other features."""
        return pack_torch(self.embed(head, features_NF)).numpy()

    @torch.inference_mode()
    def _pair_values(self, head: PairHead, pairs_P2: Rows) -> tuple[npt.NDArray[np.float64], ...]:
        """Distances ``[P]``, descriptors ``[P, 2K]``, classifier inputs ``[P, 2K]`` and probabilities ``[P]``."""
        rows, place = np.unique(pairs_P2, return_inverse=True)  # an archive has more patches than a pool
        embedding = self.embed(head, self.features[torch.from_numpy(rows)])
        first, second = (embedding[torch.from_numpy(side)] for side in place.reshape(-1, 2).T)
        values = (
            pair_distances(first, second),
            pair_descriptors(first, second),
            pair_features(first, second),
            torch.sigmoid(head.pair_logits(first, second)),
        )
        return tuple(value.double().numpy() for value in values)
