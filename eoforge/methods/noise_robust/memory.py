"""Values kept per training sample across epochs: predictions, or gaps of losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SampleMemory(nn.Module):
    """A buffer ``[N, ...]`` with a row per training sample; as part of the checkpoint it resumes exactly.

    Every rank writes the rows of the whole batch, so the buffer is equal on all ranks.

    Args:
        samples: N.
        shape: Of one row.
        start: Initial value; NaN marks rows that were not written yet.
    """

    values: Tensor

    def __init__(self, samples: int, shape: tuple[int, ...] = (), start: float = float("nan")) -> None:
        super().__init__()
        self.register_buffer("values", torch.full((samples, *shape), start))

    def read(self, rows_B: Tensor) -> Tensor:
        """Rows ``[B, ...]``."""
        return self.values[rows_B]

    @torch.no_grad()
    def write(self, rows_B: Tensor, values: Tensor) -> None:
        """Replaces rows."""
        self.values[rows_B] = values.detach().to(self.values.dtype)

    @torch.no_grad()
    def average(self, rows_B: Tensor, values: Tensor, momentum: float) -> Tensor:
        """Moving average ``momentum old + (1 - momentum) values``; a row without a value takes the new one.

        Returns:
            The new rows.
        """
        old = self.values[rows_B]
        given = values.detach().float()
        new = torch.where(old.isnan(), given, momentum * old + (1 - momentum) * given)
        self.values[rows_B] = new
        return new
