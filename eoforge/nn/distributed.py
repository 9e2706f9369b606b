"""Ranks of distributed training, and a differentiable gather of their features."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from eoforge.errors import UsageError


@dataclass(frozen=True)
class World:
    """Rank and size of the process group, as ``torchrun`` sets them.

    Attributes:
        rank: Number of this process, 0 for the one that writes files.
        size: Number of processes.
        local_rank: Number of this process on its node.
        local_size: Number of processes on this node.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def from_env(cls) -> World:
        """Ranks by ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK`` and ``LOCAL_WORLD_SIZE``; one process if they are absent.

        Raises:
            UsageError: They contradict each other.
        """
        env = os.environ
        size, rank = int(env.get("WORLD_SIZE", "1")), int(env.get("RANK", "0"))
        local = int(env.get("LOCAL_RANK", str(rank))), int(env.get("LOCAL_WORLD_SIZE", str(size)))
        world = cls(rank, size, *local)
        if not 0 <= world.rank < world.size or world.size % world.local_size:
            raise UsageError(f"RANK, WORLD_SIZE and LOCAL_WORLD_SIZE contradict each other: {world}; use torchrun")
        return world

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return self.size // self.local_size


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.rank, ctx.rows = distributed.get_rank(), rows.shape[0]
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        distributed.all_reduce(total)
        return total[ctx.rank * ctx.rows : (ctx.rank + 1) * ctx.rows]


def gather_rows(rows: Tensor) -> Tensor:
    """The ``rows [B, ...]`` of all ranks as ``[B * world, ...]``, in the order of ranks and with gradients.

    The gradient of a row is summed over the ranks' losses. When each rank computes the same loss from the gathered
    rows, DDP's mean over ranks then gives the gradient that one process with the whole batch would compute. In a single
    process this is the identity.
    """
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return rows
    gathered: Tensor = _Gather.apply(rows)
    return gathered
