"""Oracle by labels: answers as an annotator would give them who judges by the classes of the patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from eoforge.methods.anneal.annotations import Pair
from eoforge.nn.seeds import derive_seed

_BITS_63 = 1 << 63


def jaccard(one: int, other: int) -> float:
    """Jaccard index of two label masks, |both| / |either|; 0 without any label."""
    union = (one | other).bit_count()
    return (one & other).bit_count() / union if union else 0.0


@dataclass(frozen=True)
class LabelOracle:
    """Oracle that knows the labels.

    Attributes:
        masks: Label mask of each patch.
        threshold: Least Jaccard index of a similar pair.
        noise: Share of answers that are inverted; which ones depends on the pair and the seed alone.
        seed: Of the noise.
    """

    masks: Mapping[str, int]
    threshold: float
    noise: float = 0.0
    seed: int = 0

    def similar(self, pair: Pair) -> bool:
        """The answer."""
        truth = jaccard(self.masks[pair.first], self.masks[pair.second]) >= self.threshold
        drawn = derive_seed("oracle", self.seed, pair.first, pair.second) / _BITS_63
        return truth != (drawn < self.noise)
