"""CRC-32C of each row of a matrix of codes, computed for all rows at once.

Source: RFC 3720, appendix B.4 (polynomial 0x1EDC6F41, reflected).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_POLYNOMIAL = np.uint32(0x82F63B78)
_ALL = np.uint32(0xFFFFFFFF)
_BYTE = np.uint32(8)


def _table() -> npt.NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & np.uint32(1), (table >> np.uint32(1)) ^ _POLYNOMIAL, table >> np.uint32(1))
    return table


_TABLE = _table()


def code_checksums(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """CRC-32C ``[N]`` of packed codes ``[N, K/8]``."""
    crc = np.full(len(codes), _ALL)
    for column in codes.T:
        crc = _TABLE[(crc ^ column) & np.uint32(0xFF)] ^ (crc >> _BYTE)
    return crc ^ _ALL
