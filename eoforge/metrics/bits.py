"""Statistics of binary codes: balance, correlation and entropy of their bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class BitStatistics:
    """Statistics of N codes with K bits.

    Attributes:
        ones: ``[K]`` share of ones per bit; 0.5 is balanced.
        correlation: ``[K, K]`` Pearson correlation of the bits; 0 for a constant bit.
        bit_entropy: Mean entropy of a single bit, in bits; at most 1.
        code_entropy: Entropy of whole codes, in bits; at most min(K, log2 N).
        distinct: Number of different codes.
    """

    ones: npt.NDArray[np.float64]
    correlation: npt.NDArray[np.float64]
    bit_entropy: float
    code_entropy: float
    distinct: int

    def summary(self) -> dict[str, float]:
        """Scalar summary; correlations are means and maxima of absolute values off the diagonal."""
        off = np.abs(self.correlation[~np.eye(len(self.ones), dtype=bool)])
        return {
            "balance_mean_abs_deviation": float(np.abs(self.ones - 0.5).mean()),
            "constant_bits": int(((self.ones == 0) | (self.ones == 1)).sum()),
            "correlation_mean_abs": float(off.mean()) if off.size else 0.0,
            "correlation_max_abs": float(off.max()) if off.size else 0.0,
            "bit_entropy": self.bit_entropy,
            "code_entropy": self.code_entropy,
            "distinct_codes": self.distinct,
        }


def bit_statistics(codes: npt.NDArray[np.uint8], chunk: int = 65_536) -> BitStatistics:
    """Statistics of packed codes ``[N, K/8]``, N at least 1, in memory bounded by ``chunk`` unpacked rows."""
    bits = 8 * codes.shape[1]
    joint = np.zeros((bits, bits))  # number of codes with both bits set; exact in float64
    for start in range(0, len(codes), chunk):
        block = np.unpackbits(codes[start : start + chunk], axis=1, bitorder="little").astype(np.float32)
        joint += block.T @ block
    ones = np.diag(joint) / len(codes)
    covariance = joint / len(codes) - np.outer(ones, ones)
    deviation = np.sqrt(ones * (1 - ones))
    scale = np.outer(deviation, deviation)
    correlation = np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0)
    _, counts = np.unique(codes, axis=0, return_counts=True)
    return BitStatistics(
        ones=ones,
        correlation=correlation,
        bit_entropy=float(np.mean(_entropy(ones) + _entropy(1 - ones))),
        code_entropy=float(_entropy(counts / len(codes)).sum()),
        distinct=len(counts),
    )


def _entropy(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return -p * np.log2(p, out=np.zeros_like(p), where=p > 0)
