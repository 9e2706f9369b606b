"""Batching of images of concurrent requests into encoder calls."""

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
    """Batcher of images for the encoder.

    Args:
        max_batch: Images per encoder call.
        max_delay: Seconds that an image waits for others to share its batch.
        max_queue: Limit of waiting images.
    """

    def __init__(self, max_batch: int, max_delay: float, max_queue: int) -> None:
        super().__init__(_encode, METRICS, max_batch, max_delay, max_queue)

    async def encode(self, encoder: Encoder, rasters: Sequence[Raster], deadline: float | None) -> list[Encoding]:
        """Encodings of images, in order; a batch holds images of one modality for one encoder.

        Args:
            encoder: Encoder.
            rasters: Images.
            deadline: Deadline of the caller as ``time.monotonic()``, or None.

        Raises:
            Overloaded: The queue has no room for that many images.
            DeadlineExceeded: The deadline passed while images waited.
        """
        return await self.submit([((encoder, raster.modality), raster) for raster in rasters], deadline)


def _encode(key: Hashable, rasters: Sequence[Raster]) -> list[Encoding]:
    encoder, modality = cast("tuple[Encoder, str]", key)
    codes, embeddings = encoder.encode(batch_of(rasters), modality)
    return list(zip(codes, embeddings, strict=True))
