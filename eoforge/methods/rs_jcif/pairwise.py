"""The pairwise loss for a given matrix of similarities, and the memory bank of pairwise losses.

``kernels.soft_pairwise`` computes similarities from label masks pair by pair; similarities from features of a teacher
are a matrix, for which this loss is.

Shape legend: B rows of this batch, N rows of the comparison (the batch, or a memory bank), K bits. ``u`` are hash
outputs in (-1, 1).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eoforge.errors import UsageError
from kernels.soft_pairwise import ALPHA, FORMS, GAMMA, Form, pairwise_reference


def soft_pairwise_to(u_BK: Tensor, others_NK: Tensor, similarity_BN: Tensor, form: Form = "corrected") -> Tensor:
    """Pairwise loss for any targets, mean over all pairs; see :func:`kernels.soft_pairwise.soft_pairwise`.

    With ``t_ij = <u_i, u_j>``, ``Theta = alpha t``, alpha = 0.5, gamma = 0.1:

    - hard pairs (s >= 0.99 or s <= 0.01), *confirmed* (IDHN): ``log(1 + e^-|Theta|) + max(Theta, 0) - s Theta``;
    - soft pairs, "published" (*confirmed*): ``gamma (Theta + K - 2 s K)^2``. Its |Theta| <= K/2 cannot reach the
      targets, which span [-K, K];
    - soft pairs, "corrected" (*ours*): ``gamma (t + K - 2 s K)^2``;
    - "cosine" (*confirmed*, HasanBank): ``(cos(u_i, u_j) - s_ij)^2`` for every pair.

    Args:
        u_BK: Outputs with gradient.
        others_NK: Outputs of the comparison.
        similarity_BN: Targets in [0, 1].
        form: One of ``FORMS``.

    Raises:
        UsageError: The form is unknown or shapes do not fit.
    """
    if similarity_BN.shape != (len(u_BK), len(others_NK)) or u_BK.shape[1] != others_NK.shape[1]:
        raise UsageError(
            f"expected [B, K], [N, K] and [B, N]; got {list(u_BK.shape)}, {list(others_NK.shape)} and "
            f"{list(similarity_BN.shape)}"
        )
    if form not in FORMS:
        raise UsageError(f"the pairwise loss has the forms {', '.join(FORMS)}; got {form!r}")
    return pairwise_reference(u_BK.float(), others_NK.float(), similarity_BN.float(), form, ALPHA, GAMMA)


class MemoryBank(nn.Module):
    """A ring buffer of the last ``rows`` outputs and their keys (label masks or teacher features).

    IDHN keeps one row for every training patch; a ring of that length differs only during an epoch. The rows are
    buffers of the module and so part of a checkpoint.
    """

    codes: Tensor
    keys: Tensor
    filled: Tensor

    def __init__(self, rows: int, bits: int, key: Tensor) -> None:
        """Args:
        rows: Length of the ring.
        bits: Code length K.
        key: An example of a key ``[...]``, for shape and dtype.
        """
        super().__init__()
        self.register_buffer("codes", torch.zeros(rows, bits))
        self.register_buffer("keys", key.new_zeros((rows, *key.shape)))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    def rows(self) -> tuple[Tensor, Tensor]:
        """The outputs and keys in the ring."""
        held = min(int(self.filled), len(self.codes))
        return self.codes[:held], self.keys[:held]

    @torch.no_grad()
    def put(self, codes_BK: Tensor, keys_B: Tensor) -> None:
        """Adds a batch; if it is longer than the ring, its last rows."""
        capacity = len(self.codes)
        start = int(self.filled)
        places = torch.arange(start, start + len(codes_BK), device=self.codes.device)[-capacity:] % capacity
        self.codes[places] = codes_BK[-capacity:].detach().to(self.codes.dtype)
        self.keys[places] = keys_B[-capacity:].to(self.keys.dtype)
        self.filled += len(codes_BK)
