"""The hash head: features to K logits whose signs are the code."""

from __future__ import annotations

from torch import Tensor, nn

from eoforge.data.tables.schema import MAX_CODE_BITS
from eoforge.errors import UsageError

MIN_CODE_BITS = 16
_BITS_STEP = 8


class HashHead(nn.Module):
    """Linear -> GELU -> Linear, as the hash heads of DA4DTE (*confirmed*) before their tanh.

    Tanh keeps the sign, so encoding leaves it out; training takes it in ``kernels.hash_head`` with all that follows.

    Args:
        features: Channels D of the input ``[B, D]``.
        bits: Code length K, a multiple of 8 in 16..512.
        hidden: Width of the hidden layer; D if None.

    Raises:
        UsageError: ``bits`` is out of range or no multiple of 8.
    """

    def __init__(self, features: int, bits: int, hidden: int | None = None) -> None:
        super().__init__()
        if bits % _BITS_STEP or not MIN_CODE_BITS <= bits <= MAX_CODE_BITS:
            raise UsageError(
                f"bits must be a multiple of {_BITS_STEP} between {MIN_CODE_BITS} and {MAX_CODE_BITS}; got {bits}"
            )
        hidden = hidden or features
        self.layers = nn.Sequential(nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, bits))

    def forward(self, features_BD: Tensor) -> Tensor:
        """``[B, D]`` to logits ``[B, K]``; bit k of the code is ``logit_k > 0``."""
        logits_BK: Tensor = self.layers(features_BD)
        return logits_BK
