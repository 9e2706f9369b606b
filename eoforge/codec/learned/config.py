"""What a codec is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from eoforge.data.bands import GROUP_OF, S1_BANDS, S2_BANDS, require_bands
from eoforge.errors import UsageError
from eoforge.hashing.lengths import require_code_bits

QUALITY_FRACTIONS = 16
"""Quality is a multiple of 1/16: the streams' gains are tables of whole numbers, one row per multiple."""

# Means and standard deviations of reBEN's training split, rounded (facts/reben.md): a start for data like it. Training
# puts those of its own table in their place.
_REBEN: dict[str, tuple[float, float]] = {
    "B01": (361.0, 575.0), "B02": (438.0, 607.0), "B03": (614.0, 604.0), "B04": (588.0, 684.0),
    "B05": (943.0, 738.0), "B06": (1769.0, 1100.0), "B07": (2050.0, 1275.0), "B08": (2193.0, 1369.0),
    "B8A": (2236.0, 1356.0), "B09": (2241.0, 1316.0), "B11": (1568.0, 1070.0), "B12": (998.0, 814.0),
    "VV": (-12.6, 5.2), "VH": (-19.3, 5.6),
}  # fmt: skip


@dataclass(frozen=True)
class CodecConfig:
    """Settings of a :class:`eoforge.codec.learned.model.Codec`.

    Attributes:
        s2_bands: Optical bands, any subset of the twelve; empty for none.
        s1_bands: Radar bands, any subset of VV and VH; empty for none.
        mean: Mean of each of ``s2_bands`` and then ``s1_bands``, in its unit.
        std: Standard deviation of each.
        channels: Width N of the transforms.
        latent: Channels M of the latent.
        hyper: Channels of the hyper-latent.
        stages: Halvings between the 20 m grid and the latent: 2 gives a patch 15 x 15 latents, 3 gives 8 x 8.
        kernel: Side of the convolutions of the transforms.
        bits: Length K of the hash code.
        hash_hidden: Width of the hash module.
        steps: Quality steps, at least 8; quality runs from 0 (smallest) to ``steps - 1``.
        lambda_min: Weight of the distortion at quality 0 (see ``objective``).
        lambda_max: Weight at the highest quality; those between follow a geometric ladder.
        seed: Of the initial weights.
    """

    s2_bands: tuple[str, ...] = S2_BANDS
    s1_bands: tuple[str, ...] = S1_BANDS
    mean: tuple[float, ...] = tuple(_REBEN[b][0] for b in (*S2_BANDS, *S1_BANDS))
    std: tuple[float, ...] = tuple(_REBEN[b][1] for b in (*S2_BANDS, *S1_BANDS))
    channels: int = 128
    latent: int = 256
    hyper: int = 128
    stages: int = 2
    kernel: int = 5
    bits: int = 128
    hash_hidden: int = 512
    steps: int = 8
    lambda_min: float = 4.0
    lambda_max: float = 16384.0
    seed: int = 0

    def __post_init__(self) -> None:
        for modality, bands in (("s2", self.s2_bands), ("s1", self.s1_bands)):
            if bands:
                require_bands(bands, modality)
        count = len(self.s2_bands) + len(self.s1_bands)
        if not count or len(self.mean) != count or len(self.std) != count or min(self.std) <= 0:
            raise UsageError(
                f"a codec needs a mean and a positive std for each of its {count} bands; "
                f"got {len(self.mean)} and {len(self.std)}. CodecConfig.for_bands takes them from a normalisation"
            )
        require_code_bits(self.bits)
        if self.steps < 8 or not 1 <= self.stages <= 4 or self.kernel % 2 == 0:
            raise UsageError(
                f"expected at least 8 steps, 1 to 4 stages and an odd kernel; "
                f"got {self.steps}, {self.stages}, {self.kernel}"
            )
        if min(self.channels, self.latent, self.hyper, self.hash_hidden) < 1:
            raise UsageError("channels, latent, hyper and hash_hidden must be positive")
        if not 0 < self.lambda_min < self.lambda_max < math.inf:
            raise UsageError(f"expected 0 < lambda_min < lambda_max; got {self.lambda_min}, {self.lambda_max}")

    @classmethod
    def tiny(cls) -> CodecConfig:
        """Trains on two CPU cores in a minute or two."""
        return cls(channels=32, latent=128, hyper=32, kernel=3, bits=32, hash_hidden=64)

    @classmethod
    def paper(cls) -> CodecConfig:
        """The widths of our reconstruction of RS-JCIF (facts/methods_retrieval.md 3.2, *inferred*).

        The latent is *ours*: 15 x 15 x 256 for a patch instead of 8 x 8 x 192, which cannot hold what the noise of real
        patches needs beyond about 40 dB (peak 10,000).
        """
        return cls()

    def for_bands(self, normalisation: Mapping[str, tuple[float, float]]) -> CodecConfig:
        """The same for exactly the bands of ``normalisation``: name -> (mean, std).

        Raises:
            UsageError: A band is unknown.
        """
        unknown = [band for band in normalisation if band not in GROUP_OF]
        if unknown:
            raise UsageError(f"unknown bands {', '.join(unknown)}; the bands are {', '.join(GROUP_OF)}")
        s2 = tuple(band for band in S2_BANDS if band in normalisation)
        s1 = tuple(band for band in S1_BANDS if band in normalisation)
        mean, std = zip(*(normalisation[band] for band in (*s2, *s1)), strict=True)
        return replace(self, s2_bands=s2, s1_bands=s1, mean=tuple(mean), std=tuple(std))

    @property
    def bands(self) -> dict[str, tuple[str, ...]]:
        """Modality -> its bands, modalities without any left out."""
        return {m: bands for m, bands in (("s1", self.s1_bands), ("s2", self.s2_bands)) if bands}

    def statistics(self, modality: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Means and standard deviations of the bands of one modality."""
        split = len(self.s2_bands)
        part = slice(0, split) if modality == "s2" else slice(split, None)
        return self.mean[part], self.std[part]

    def lambda_of(self, quality: float) -> float:
        """Weight of the distortion at a quality, fractions included."""
        return float(self.lambda_min * (self.lambda_max / self.lambda_min) ** (quality / (self.steps - 1)))

    def require_quality(self, quality: float) -> float:
        """``quality`` rounded to the next multiple of 1/16.

        Raises:
            UsageError: It is not in 0..``steps - 1``.
        """
        if not 0 <= quality <= self.steps - 1:
            raise UsageError(f"quality must be a number from 0 to {self.steps - 1}; got {quality}")
        return round(quality * QUALITY_FRACTIONS) / QUALITY_FRACTIONS
