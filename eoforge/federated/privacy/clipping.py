"""Protection of an update at the silo: clipping of its norm and Gaussian noise."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import DataRefused
from eoforge.federated.privacy.dp import silo_deviation
from eoforge.storage.tensorfile import Array

NORM_BLOCK = 1 << 16
"""Number of elements that are converted to float64 at a time."""


def sum_of_squares(values: Array) -> float:
    """Sum of the squares of numbers, in float64 and on this thread.

    Not by ``np.dot``: threads of BLAS wait for each other, which took 40 times the CPU time on a busy machine, and the
    sum then depends on their number.
    """
    flat, total = values.reshape(-1), 0.0
    with np.errstate(over="ignore"):  # infinity, which callers refuse
        for start in range(0, len(flat), NORM_BLOCK):
            total += float(np.square(flat[start : start + NORM_BLOCK], dtype=np.float64).sum())
    return total


def l2_norm(tensors: Mapping[str, Array]) -> float:
    """L2 norm over all floating-point tensors, in float64."""
    return math.sqrt(sum(sum_of_squares(array) for array in tensors.values() if array.dtype.kind == "f"))


def clipped_and_noised(tensors: Mapping[str, Array], task: pb.Task) -> dict[str, Array]:
    """Update with clipped norm and the silo's share of the noise, if the run has differential privacy at the silos.

    The seed of the noise is entropy of the operating system and is not kept: the noise cannot be reproduced.

    Raises:
        DataRefused: The update holds NaN or infinity.
    """
    privacy = task.privacy
    if privacy.dp != pb.DP_MODE_SILO:
        return dict(tensors)
    norm = l2_norm(tensors)
    if not math.isfinite(norm):
        raise DataRefused("the trained update holds NaN or infinity; lower the learning rate")
    factor = min(1.0, privacy.clip_norm / norm) if norm else 1.0
    deviation = silo_deviation(privacy.noise_multiplier, privacy.clip_norm, task.quorum)
    rng = np.random.default_rng()
    protected: dict[str, Array] = {}
    for name, array in tensors.items():
        if array.dtype.kind == "f":
            noise = rng.standard_normal(array.shape) * deviation
            protected[name] = (array.astype(np.float64) * factor + noise).astype(array.dtype)
        else:
            protected[name] = array
    return protected
