"""Images on native grids, and the table of sources of their channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels._runtime import FLOATS, next_power_of_2, require_device, require_dtype, require_shape

SOURCE_DTYPES = (*FLOATS, torch.uint16)
MAX_SOURCES = 3
MAX_TILE = 16384
"""Elements of one token that a program holds in registers (channels and pixels both rounded up to powers of two)."""


@dataclass(frozen=True)
class ChannelTable:
    """Output channels of a gather, as small device tensors (build it once, keep it on the model).

    Attributes:
        where: int32 ``[C, 2]``: (source, channel in that source).
        norm: float32 ``[C, 2]``: (mean, 1 / std); a channel becomes ``(value - mean) / std``.
    """

    where: Tensor
    norm: Tensor

    @staticmethod
    def build(
        where: Sequence[tuple[int, int]],
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str = "cpu",
    ) -> ChannelTable:
        """The table of Python numbers.

        Raises:
            ValueError: The lengths differ, or a std is not positive.
        """
        if not len(where) == len(mean) == len(std) or not where:
            raise ValueError(f"ChannelTable: expected equal lengths > 0; got {len(where)}, {len(mean)}, {len(std)}")
        if min(std) <= 0:
            raise ValueError(f"ChannelTable(std): expected positive values; got {min(std)}")
        norm = torch.tensor([mean, [1 / s for s in std]], dtype=torch.float32).t().contiguous()
        return ChannelTable(torch.tensor(list(where), dtype=torch.int32, device=device), norm.to(device))


def check_sources(
    op: str, sources: Sequence[Tensor], ids: Tensor, table: ChannelTable, flip: Tensor | None, size: int, patch: int
) -> None:
    """Checks that images, ids and table fit together.

    Raises:
        TypeError: A dtype is wrong, or the sources' dtypes differ.
        ValueError: A shape, device or size does not fit.
    """
    if not 1 <= len(sources) <= MAX_SOURCES:
        raise ValueError(f"{op}(sources): expected 1 to {MAX_SOURCES} tensors; got {len(sources)}")
    require_dtype(f"{op}(ids)", ids, (torch.uint8,))
    require_shape(f"{op}(ids)", ids, (None, None), "[B, M]")
    for index, source in enumerate(sources):
        name = f"{op}(sources[{index}])"
        require_dtype(name, source, SOURCE_DTYPES if index == 0 else (sources[0].dtype,))
        require_shape(name, source, (ids.shape[0], None, source.shape[-1], source.shape[-1]), "[B, C, S, S]")
        require_device(name, source, "ids", ids)
        if source.shape[-1] == 0 or size % source.shape[-1]:
            raise ValueError(f"{name}: expected a side that divides size = {size}; got {source.shape[-1]}")
    channels = table.where.shape[0]
    require_dtype(f"{op}(table.where)", table.where, (torch.int32,))
    require_dtype(f"{op}(table.norm)", table.norm, (torch.float32,))
    require_shape(f"{op}(table.norm)", table.norm, (channels, 2), "[C, 2]")
    require_device(f"{op}(table)", table.where, "ids", ids)
    if flip is not None:
        require_dtype(f"{op}(flip)", flip, (torch.uint8,))
        require_shape(f"{op}(flip)", flip, (ids.shape[0],), "[B]")
        require_device(f"{op}(flip)", flip, "ids", ids)
    if patch < 1 or size % patch or (size // patch) ** 2 > 256:
        raise ValueError(f"{op}: expected a patch that divides size = {size} into at most 256; got patch = {patch}")
    if next_power_of_2(channels) * next_power_of_2(patch * patch) > MAX_TILE:
        raise ValueError(f"{op}: a token of {channels} x {patch} x {patch} elements is wider than {MAX_TILE}")


def kernel_shape(sources: Sequence[Tensor], channels: int, size: int, patch: int, flipped: bool) -> dict[str, Any]:
    """The constexpr arguments that describe the images, and the number of warps."""
    shapes = [(s.shape[1], s.shape[2]) for s in sources] + [(0, 1)] * (MAX_SOURCES - len(sources))
    named = {f"{letter}{i}": shape[j] for i, shape in enumerate(shapes) for j, letter in enumerate("CN")}
    block_c, block_p = next_power_of_2(channels), next_power_of_2(patch * patch)
    blocks = {"CHANNELS": channels, "BLOCK_C": block_c, "BLOCK_P": block_p, "FLIPPED": flipped}
    # 8 elements a thread: with 16, masked_mse spills (prediction, target and three addresses are live together).
    warps = min(max(block_c * block_p // 256, 1), 16)
    return named | {"SIZE": size, "PATCH": patch} | blocks | {"num_warps": warps}


def three_pointers(sources: Sequence[Tensor]) -> list[Tensor]:
    """The sources, the last repeated where fewer than three are given (never read there)."""
    contiguous = [s.contiguous() for s in sources]
    return contiguous + [contiguous[-1]] * (MAX_SOURCES - len(contiguous))
