"""Short fuzzing of the decoder; ``benchmarks/codec/fuzz.py`` runs 200,000 mutants."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.codec import fuzz
from eoforge.codec.container import inspect
from eoforge.codec.learned.model import Codec


@pytest.fixture(scope="module")
def target() -> tuple[Codec, list[bytes]]:
    """A codec to attack and whole streams to start from."""
    codec = fuzz.small_codec()
    return codec, fuzz.seeds(codec, np.random.default_rng(0))


def test_seeds_are_valid_and_of_every_kind(target: tuple[Codec, list[bytes]]) -> None:
    codec, seeds = target
    assert [fuzz.verdict(codec, seed) for seed in seeds] == ["decoded"] * len(seeds)
    headers = [inspect(seed) for seed in seeds]
    assert {(h.kind, bool(h.tile)) for h in headers} == {(k, t) for k in (1, 2) for t in (False, True)}


@given(number=st.integers(0, 6), other=st.integers(0, 6), seed=st.integers(0, 1 << 32))
@settings(max_examples=300)
def test_mutants_end_in_our_errors(target: tuple[Codec, list[bytes]], number: int, other: int, seed: int) -> None:
    codec, seeds = target
    fuzz.verdict(codec, fuzz.mutate(seeds[number], seeds[other], np.random.default_rng(seed)))


@given(st.binary(max_size=300))
def test_any_bytes_end_in_our_errors(target: tuple[Codec, list[bytes]], data: bytes) -> None:
    codec, _ = target
    assert fuzz.verdict(codec, data) == "DataRefused"
    assert fuzz.verdict(codec, b"EOFC\x01\x00" + data) in ("DataRefused", "LimitExceeded")
