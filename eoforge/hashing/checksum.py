"""CRC-32C of codes and of the rows that hold them, computed for all rows at once.

Source: RFC 3720, appendix B.4 (polynomial 0x1EDC6F41, reflected).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

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
    return _of_codes(codes) ^ _ALL


def row_checksums(codes: npt.NDArray[np.uint8], modality: pa.Array, patch_id: pa.Array) -> npt.NDArray[np.uint32]:
    """CRC-32C ``[N]`` of the bytes of each code, then ``MODALITY/PATCH_ID`` in UTF-8: a code of another patch differs.

    Args:
        codes: Packed codes ``[N, K/8]``.
        modality: Modality of each row.
        patch_id: Patch of each row.
    """
    crc = _of_codes(codes)
    names = pc.binary_join_element_wise(modality, patch_id, "/").cast(pa.large_binary())
    _, offsets, content = names.buffers()
    start = np.frombuffer(offsets, np.int64)[names.offset : names.offset + len(names) + 1]
    size, octets = np.diff(start), np.frombuffer(content or b"", np.uint8)
    for position in range(int(size.max(initial=0))):
        within = np.flatnonzero(size > position)
        crc[within] = _step(crc[within], octets[start[within] + position])
    return crc ^ _ALL


def _of_codes(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    crc = np.full(len(codes), _ALL)
    for column in codes.T:
        crc = _step(crc, column)
    return crc


def _step(crc: npt.NDArray[np.uint32], octets: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """State after one more byte of each row."""
    return _TABLE[(crc ^ octets) & np.uint32(0xFF)] ^ (crc >> _BYTE)
