"""Hand-written serialisation of chunks: equal to that of protobuf."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.client.chunk_messages import serialised, with_chunk

HEADS = [
    pb.PutUpdateRequest(run_id="run", round=300, digest="f" * 64),
    pb.PutUpdateRequest(),
    pb.PutModelRequest(),
    pb.DownloadResponse(),
    pb.GetModelResponse(),
]


@pytest.mark.parametrize("head", HEADS)
@given(index=st.integers(0, 2**32 - 1), data=st.binary(max_size=300))
def test_protobuf_parses_the_message(head: Any, index: int, data: bytes) -> None:
    read = type(head).FromString(with_chunk(head, index, memoryview(data)))
    expected = type(head)()
    expected.CopyFrom(head)
    expected.chunk.index, expected.chunk.data = index, data
    assert read == expected


def test_serialised_bytes_are_returned_unchanged() -> None:
    assert serialised(b"bytes") == b"bytes"
    assert serialised(pb.Chunk(index=3)) == pb.Chunk(index=3).SerializeToString()
