"""Images of concurrent requests share encoder calls."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from eoforge.index.encoder import Encoder
from services._runtime.batching import Batcher, BatchMetrics
from services.retrieval.images import Raster, batch_of

METRICS = BatchMetrics("encode", "images")

Encoding = tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]
"""Packed code ``[K/8]`` and embedding ``[D]``."""


class EncodeBatcher(Batcher[Raster, Encoding]):
    """Collects images into batches for the encoder.

    Args:
        max_batch: Images per encoder call.
        max_delay: Seconds that an image waits for company.
        max_queue: Images that may wait.
    """

    def __init__(self, max_batch: int, max_delay: float, max_queue: int) -> None:
        super().__init__(_encode, METRICS, max_batch, max_delay, max_queue)

    async def encode(self, encoder: Encoder, rasters: Sequence[Raster], deadline: float | None) -> list[Encoding]:
        """Encodes images, in order; batched only with others of their modality for the same encoder.

        Args:
            encoder: What encodes.
            rasters: The images.
            deadline: ``time.monotonic()`` after which the caller no longer cares.

        Raises:
            Overloaded: There is no room for that many images.
            DeadlineExceeded: The deadline passed while they waited.
        """
        return await self.submit([((encoder, raster.modality), raster) for raster in rasters], deadline)


def _encode(key: Hashable, rasters: Sequence[Raster]) -> list[Encoding]:
    encoder, modality = cast("tuple[Encoder, str]", key)
    codes, embeddings = encoder.encode(batch_of(rasters), modality)
    return list(zip(codes, embeddings, strict=True))
