"""The hash head: an MLP from features to K logits whose signs are the code."""

from __future__ import annotations

from torch import Tensor, nn

from eoforge.hashing.lengths import require_code_bits


class HashHead(nn.Module):
    """An MLP, Linear -> GELU -> Linear: the hash heads of DA4DTE (*confirmed*) before their tanh.

    Tanh keeps the sign, so encoding omits it; in training ``kernels.hash_head`` applies it.

    Args:
        features: Channels D of the input ``[B, D]``.
        bits: Code length K, a multiple of 8 in 16..512.
        hidden: Width of the hidden layer; D if None.

    Raises:
        UsageError: ``bits`` is out of range or no multiple of 8.
    """

    def __init__(self, features: int, bits: int, hidden: int | None = None) -> None:
        super().__init__()
        require_code_bits(bits)
        hidden = hidden or features
        self.layers = nn.Sequential(nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, bits))

    def forward(self, features_BD: Tensor) -> Tensor:
        """``[B, D]`` to logits ``[B, K]``; bit k of the code is ``logit_k > 0``."""
        logits_BK: Tensor = self.layers(features_BD)
        return logits_BK
