"""CRC-32C of rows against the library that computes the checksum of streams."""

from __future__ import annotations

import google_crc32c
import numpy as np
import pyarrow as pa
import pytest

from eoforge.hashing.checksum import code_checksums, row_checksums


@pytest.mark.parametrize("width", [1, 2, 16, 64])
def test_rows_have_the_checksum_of_their_bytes(width: int) -> None:
    codes = np.random.default_rng(width).integers(0, 256, (500, width), dtype=np.uint8)
    codes[0], codes[1] = 0, 255
    expected = [google_crc32c.value(row.tobytes()) for row in codes]
    assert code_checksums(codes).tolist() == expected
    assert code_checksums(codes).dtype == np.uint32
    assert code_checksums(codes[:0]).tolist() == []


def test_a_row_has_the_checksum_of_code_modality_and_patch() -> None:
    codes = np.random.default_rng(0).integers(0, 256, (4, 16), dtype=np.uint8)
    modality, patch_id = ["s1", "s2", "s2", "s1"], ["a", "S2A_MSIL2A_20170613_1", "", "ü"]
    expected = [
        google_crc32c.value(code.tobytes() + f"{m}/{p}".encode())
        for code, m, p in zip(codes, modality, patch_id, strict=True)
    ]
    found = row_checksums(codes, pa.array(modality), pa.array(patch_id))
    assert found.tolist() == expected
    part = row_checksums(codes[1:3], pa.array(modality)[1:3], pa.array(patch_id)[1:3])
    assert part.tolist() == expected[1:3]
    assert row_checksums(codes[:0], pa.array([], pa.string()), pa.array([], pa.string())).tolist() == []
