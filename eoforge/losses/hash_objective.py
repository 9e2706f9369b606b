"""The objective of hash heads on two sensors' features (DA4DTE, *confirmed*).

The sums of DA4DTE grow with the batch, so a weight holds for one batch size only. The means are *ours*: the same terms
divided by their number, so that a weight holds for every batch size and code length. Balance over samples (each bit set
in half of the patches, which maximises its entropy) is *ours* too. ``kernels.hash_head`` defines the terms.
"""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

from eoforge.losses.contrastive import nt_xent
from kernels.hash_head import hash_head


class HashWeights(Protocol):
    """Settings of the objective, by their names in methods' configs."""

    @property
    def hash_temperature(self) -> float: ...
    @property
    def quantisation_weight(self) -> float: ...
    @property
    def balance_weight(self) -> float: ...
    @property
    def balance_over(self) -> Literal["bits", "samples"]: ...
    @property
    def hash_reduction(self) -> Literal["sum", "mean"]: ...


def hash_objective(logits: tuple[Tensor, Tensor], config: HashWeights) -> dict[str, Tensor]:
    """Terms of the objective: NT-Xent between the sensors' outputs, quantisation, bit balance, and ``hash``, their sum.

    Args:
        logits: Of both sensors for the same patches, ``[B, K]`` each; outputs are their tanh.
        config: Weights.
    """
    # Float32 also under autocast: bf16 cannot resolve outputs near -1 and 1.
    head = hash_head(logits[0].float(), logits[1].float(), reduction=config.hash_reduction)
    contrast = nt_xent(head.codes[0], head.codes[1], config.hash_temperature)
    balance = head.balance_bits if config.balance_over == "bits" else head.balance_samples
    total = contrast + config.quantisation_weight * head.quantisation + config.balance_weight * balance
    return {"hash": total, "hash_contrast": contrast, "quantisation": head.quantisation, "balance": balance}
