"""Layouts: equal to the safetensors library, safe for any bytes, cut at element boundaries."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from eoforge.errors import DataRefused, LimitExceeded
from eoforge.storage.tensorfile import MAX_HEADER_BYTES, Layout, TensorSpec, read_file, read_specs, write_file

SPECS = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.builds(
        TensorSpec,
        st.lists(st.integers(0, 5), max_size=3).map(tuple),
        st.sampled_from(["float32", "float64", "float16", "int64", "uint8", "bool"]),
        st.sampled_from(["weight", "norm", "counter"]),
    ),
    max_size=6,
).filter(lambda specs: "__metadata__" not in specs)


@given(SPECS)
def test_a_layout_reads_back_what_it_wrote(specs: dict[str, TensorSpec]) -> None:
    made = Layout.of(specs)
    assert Layout.parse(made.header, made.length) == made
    assert dict(made.specs) == specs


@given(SPECS, st.integers(8, 64).map(lambda n: n * 8))
def test_segments_cover_every_element_once(specs: dict[str, TensorSpec], step: int) -> None:
    layout = Layout.of(specs)
    seen: dict[str, list[int]] = {}
    for first in range(0, layout.length, step):
        for segment in layout.segments(first, min(first + step, layout.length)):
            seen.setdefault(segment.name, []).extend(range(segment.start, segment.stop))
    assert {name: list(range(spec.size)) for name, spec in specs.items() if spec.size} == seen


def test_the_safetensors_library_reads_our_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {"b": rng.random((3, 2), np.float32), "a": np.arange(5), "c": np.array(True)}
    write_file(tmp_path / "x.safetensors", tensors, {"a": "counter"})
    for name, array in load_file(tmp_path / "x.safetensors").items():
        assert np.array_equal(array, tensors[name])
    assert all(np.array_equal(read_file(tmp_path / "x.safetensors")[n], t) for n, t in tensors.items())
    assert read_specs(tmp_path / "x.safetensors")["a"].role == "counter"


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_and_never_crash(data: bytes) -> None:
    with pytest.raises((DataRefused, LimitExceeded)):
        Layout.parse(data, len(data))


def entry(**changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes


@pytest.mark.parametrize(
    ("entries", "length"),
    [
        ({"a": entry(shape=[3])}, 8),
        ({"a": entry(shape=[2**62, 4], data_offsets=[0, 0])}, 0),
        ({"a": entry(dtype="BF16")}, 8),
        ({"a": entry(dtype=["F32"])}, 8),
        ({"a": entry(), "__metadata__": {"eoforge.roles": '{"a": []}'}}, 8),
        ({"a": entry(shape=[-2])}, 8),
        ({"a": entry(data_offsets=[4, 12])}, 12),
        ({"a": entry(), "b": entry()}, 8),
        ({"a": entry()}, 9),
        ({"a": entry(data_offsets=[0])}, 8),
        ({"a": 5}, 8),
        ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "b": entry(data_offsets=[1, 9])}, 9),
    ],
)
def test_headers_that_lie_are_refused(entries: dict[str, object], length: int) -> None:
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    with pytest.raises(DataRefused):
        Layout.parse(struct.pack("<Q", len(text)) + text, 8 + len(text) + length)


def test_a_header_that_claims_too_much_is_refused_before_it_is_read() -> None:
    with pytest.raises(LimitExceeded):
        Layout.parse(struct.pack("<Q", MAX_HEADER_BYTES + 1), 1 << 40)
