"""Synthetic codes of patches, clustered as the codes of the demo are, for archives that no disk of rasters holds.

A patch has a latent vector: the centre of its kind of land and its own deviation. Each sensor sees it with a deviation
of its own, through one random projection with noise; the signs are the codes. ``FITTED`` is near the demo's codes in
five figures: distances of pairs (mean, deviation), of the tenth neighbour, of the partner, and how often it is in ten
(``python -m benchmarks.scale --fit CODES`` prints them for a table, beside those of the generator).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

BITS, BLOCK = 128, 1 << 19
Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Kind:
    """Parameters of the generator.

    Attributes:
        centres: Number of kinds of land.
        dimensions: Length of the latent vector.
        spread: Deviation of a patch from its centre, in deviations of the centres.
        apart: Deviation of what a sensor sees from the latent vector, in the same unit.
        noise: Deviation of the noise of a bit, in deviations of the projection.
    """

    centres: int = 400
    dimensions: int = 5
    spread: float = 0.2
    apart: float = 0.35
    noise: float = 0.05


FITTED = Kind()


def block(kind: Kind, number: int, rows: int, seed: int = 0) -> tuple[Codes, Codes]:
    """Codes ``[rows, 16]`` of both sensors, block ``number`` of an endless archive."""
    fixed = np.random.Generator(np.random.Philox(key=seed))
    # Few kinds are frequent and many are rare, as land cover is.
    centres = fixed.standard_normal((kind.centres, kind.dimensions), dtype=np.float32)
    share = 1 / np.arange(1, kind.centres + 1)
    projection = fixed.standard_normal((kind.dimensions, BITS), dtype=np.float32) / np.sqrt(kind.dimensions)
    rng = np.random.Generator(np.random.Philox(key=[seed + 1, number]))
    chosen = rng.choice(kind.centres, rows, p=share / share.sum())
    own = rng.standard_normal((rows, kind.dimensions), dtype=np.float32)
    latent = centres[chosen] + np.float32(kind.spread) * own
    s1, s2 = (
        _noisy(
            (latent + np.float32(kind.apart) * rng.standard_normal(own.shape, dtype=np.float32)) @ projection, kind, rng
        )
        for _ in range(2)
    )
    return s1, s2


def _noisy(logits: npt.NDArray[np.float32], kind: Kind, rng: np.random.Generator) -> Codes:
    """Codes through noise: the sum of two uniform bytes, much cheaper than a normal deviate for each bit."""
    first, second = rng.integers(0, 256, (2, *logits.shape), dtype=np.uint8)
    uniform = (first.astype(np.int16) + second - 255).astype(np.float32)  # deviation 104.5
    return np.packbits(logits + uniform * np.float32(kind.noise / 104.5) > 0, axis=1, bitorder="little")


def figures(s1: Codes, s2: Codes) -> dict[str, float]:
    """Distances in bits that describe codes ``[N, 16]`` of both sensors, row by row of the same patch."""
    rows = min(len(s1), 2_000)
    s1, s2 = s1[:rows], s2[:rows]
    across = np.bitwise_count(s1[:, None] ^ s2[None]).sum(axis=2, dtype=np.int64)
    partner = np.diagonal(across)
    others = across[~np.eye(rows, dtype=bool)].reshape(rows, rows - 1)
    ordered = np.sort(others, axis=1)
    return {
        "pairs_mean": round(float(others.mean()), 2),
        "pairs_deviation": round(float(others.std()), 2),
        "tenth_neighbour": round(float(ordered[:, 9].mean()), 2),
        "partner": round(float(partner.mean()), 2),
        "partner_in_ten": round(float((partner <= ordered[:, 9]).mean()), 3),
    }


def codes_of_table(uri: str) -> tuple[Codes, Codes]:
    """Codes of both sensors of a table, row by row of the same patch."""
    from eoforge.storage.addresses import open_table

    table: Any = open_table(uri).to_table(columns=["patch_id", "modality", "code"]).sort_by("patch_id")
    modality = np.array(table["modality"].to_pylist())
    packed = table["code"].combine_chunks().flatten().to_numpy().reshape(len(modality), -1)
    return packed[modality == "s1"], packed[modality == "s2"]
