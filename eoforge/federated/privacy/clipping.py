"""Protection of an update at the silo: clipping of its norm and Gaussian noise."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import DataRefused
from eoforge.federated.privacy.dp import silo_deviation
from eoforge.storage.tensorfile import Array


def l2_norm(tensors: Mapping[str, Array]) -> float:
    """L2 norm over all floating-point tensors, in float64."""
    squares = 0.0
    for array in tensors.values():
        if array.dtype.kind == "f":
            flat = array.reshape(-1).astype(np.float64)
            squares += float(np.dot(flat, flat))
    return math.sqrt(squares)


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
