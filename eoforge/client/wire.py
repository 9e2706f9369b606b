"""Wire form of bands in the retrieval and compression APIs, shared by clients and services."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from eoforge.data.bands import S1_BANDS
from eoforge.errors import UsageError

_SAMPLE_TYPES = {"s1": "<f4", "s2": "<u2"}


def modality_of(band: str) -> str:
    """Modality of a band name; ``s2`` for every name but VV and VH."""
    return "s1" if band in S1_BANDS else "s2"


def band_fields(name: str, samples: npt.NDArray[Any], modality: str) -> dict[str, Any]:
    """Fields of a ``Band`` message for samples ``[H, W]``: float32 dB of Sentinel-1, uint16 of Sentinel-2.

    Raises:
        UsageError: The samples are not two-dimensional, or the conversion of their type would lose values.
    """
    dtype = np.dtype(_SAMPLE_TYPES[modality])
    if samples.ndim != 2 or not np.can_cast(samples.dtype, dtype, casting="same_kind"):
        raise UsageError(
            f"band {name} of {modality} must be a [H, W] array of {dtype.name}; got {samples.dtype} {samples.shape}"
        )
    height, width = samples.shape
    raw = np.ascontiguousarray(samples, dtype=dtype).tobytes()
    return {"name": name, "height": height, "width": width, "samples": raw}


def band_samples(message: Any) -> npt.NDArray[Any]:
    """Samples ``[H, W]`` of a ``Band`` message, with the sample type of its band name."""
    dtype = _SAMPLE_TYPES[modality_of(message.name)]
    return np.frombuffer(message.samples, dtype=dtype).reshape(message.height, message.width)
