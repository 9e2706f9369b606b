"""The objective of hash heads on two sensors' features (DA4DTE, *confirmed*)."""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

from eoforge.losses.contrastive import nt_xent
from eoforge.losses.hash_codes import Reduction, bit_balance, quantisation


class HashWeights(Protocol):
    """The settings it reads, by the names that methods' configs give them."""

    @property
    def hash_temperature(self) -> float: ...
    @property
    def quantisation_weight(self) -> float: ...
    @property
    def balance_weight(self) -> float: ...
    @property
    def balance_over(self) -> Literal["bits", "samples"]: ...
    @property
    def hash_reduction(self) -> Reduction: ...


def hash_objective(hashes: tuple[Tensor, Tensor], config: HashWeights) -> dict[str, Tensor]:
    """NT-Xent between the sensors' hash outputs ``[B, K]``, quantisation, and bit balance; their sum is ``hash``."""
    contrast = nt_xent(*hashes, config.hash_temperature)
    quantised = quantisation(*hashes, reduction=config.hash_reduction)
    first, second = (bit_balance(h, config.balance_over, config.hash_reduction) for h in hashes)
    total = contrast + config.quantisation_weight * quantised + config.balance_weight * (first + second)
    return {"hash": total, "hash_contrast": contrast, "quantisation": quantised, "balance": first + second}
