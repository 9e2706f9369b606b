"""Interface of a trained encoder, for the index and the services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from eoforge.data.loading.loader import PatchBatch


class Encoder(Protocol):
    """Encoder of patches into packed binary codes and float embeddings.

    Bit ``k`` of a code is set where logit ``k`` is greater than zero (a logit of zero gives 0), packed little-endian:
    bit ``k`` is bit ``k % 8`` of byte ``k // 8``, as ``np.packbits(..., bitorder="little")`` does.

    Attributes:
        bits: Code length K, a multiple of 8.
        embedding_dim: Length D of the float embedding.
        modalities: Modalities of ``encode``, out of ``("s1", "s2")``.
        device: Torch device of the model.
    """

    bits: int
    embedding_dim: int
    modalities: tuple[str, ...]
    device: Any

    def encode(self, batch: PatchBatch, modality: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Codes ``[B, K/8]`` and embeddings ``[B, D]`` of one modality of a batch.

        Raises:
            UsageError: ``modality`` is none of ``modalities``.
            DataRefused: The batch lacks the modality's bands.
        """
        ...
