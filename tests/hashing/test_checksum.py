"""CRC-32C of rows against the library that computes the checksum of streams."""

from __future__ import annotations

import google_crc32c
import numpy as np
import pytest

from eoforge.hashing.checksum import code_checksums


@pytest.mark.parametrize("width", [1, 2, 16, 64])
def test_rows_have_the_checksum_of_their_bytes(width: int) -> None:
    codes = np.random.default_rng(width).integers(0, 256, (500, width), dtype=np.uint8)
    codes[0], codes[1] = 0, 255
    expected = [google_crc32c.value(row.tobytes()) for row in codes]
    assert code_checksums(codes).tolist() == expected
    assert code_checksums(codes).dtype == np.uint32
    assert code_checksums(codes[:0]).tolist() == []
