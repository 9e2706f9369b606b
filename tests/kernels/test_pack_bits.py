"""pack_bits and unpack_bits against NumPy, through the kernel and through PyTorch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels._runtime import INTERPRETED
from kernels.pack_bits import _pack_bits, _unpack_bits, pack_bits, unpack_bits
from kernels.pack_bits.kernel import PACK_BLOCK, UNPACK_BLOCK, pack_kernel, unpack_kernel
from tests.kernels.aot import POINTERS, TARGETS, assert_fits, compile_kernel

SHAPES = [(0, 16), (1, 8), (1, 128), (3, 24), (7, 512), (13, 40), (257, 136)]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.int8, torch.bool]


def values(shape: tuple[int, int], dtype: torch.dtype, device: str) -> torch.Tensor:
    """Random values of which a third are exactly zero, and some NaN, infinite or negative zero."""
    rng = np.random.default_rng(np.random.Philox(key=shape[0] * 1009 + shape[1]))
    x = rng.integers(-1, 2, shape).astype(np.float32)
    if dtype.is_floating_point and x.size:
        for value in (np.nan, -np.nan, np.inf, -np.inf, -0.0):
            x.flat[rng.integers(x.size)] = value
    return torch.from_numpy(x).to(device=device, dtype=dtype)


def expected(x: torch.Tensor) -> np.ndarray:
    return np.packbits((x > 0).cpu().numpy(), axis=1, bitorder="little")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("poisoned")
def test_equals_numpy(shape: tuple[int, int], dtype: torch.dtype, device: str, launches: Counter[str]) -> None:
    x = values(shape, dtype, device)
    codes = pack_bits(x)
    assert codes.dtype == torch.uint8
    np.testing.assert_array_equal(codes.cpu().numpy(), expected(x))
    np.testing.assert_array_equal(unpack_bits(codes).cpu().numpy(), (x > 0).cpu().numpy())
    if INTERPRETED and shape[0]:
        assert launches == {"pack_kernel": 1, "unpack_kernel": 1}


@given(rows=st.integers(0, 9), k=st.integers(1, 9), data=st.data())
@settings(max_examples=30, deadline=None)
def test_round_trip_for_any_bits(rows: int, k: int, data: st.DataObject) -> None:
    raw = data.draw(st.binary(min_size=rows * k, max_size=rows * k))
    codes = torch.tensor(list(raw), dtype=torch.uint8).view(rows, k)
    assert torch.equal(pack_bits(unpack_bits(codes).float() - 0.5), codes)


def test_non_contiguous_input(device: str) -> None:
    x = values((24, 40), torch.float32, device)
    for view in (x.t()[:, :16], x[::2], x[:, 8:24]):
        np.testing.assert_array_equal(pack_bits(view).cpu().numpy(), expected(view))


def test_no_gradient_flows(device: str) -> None:
    assert not pack_bits(torch.ones(2, 8, device=device, requires_grad=True)).requires_grad


def test_refusals_name_what_came() -> None:
    with pytest.raises(ValueError, match="multiple of 8; got K = 12"):
        pack_bits(torch.zeros(2, 12))
    with pytest.raises(ValueError, match=r"\[N, K\]"):
        pack_bits(torch.zeros(16))
    with pytest.raises(TypeError, match="got int32"):
        pack_bits(torch.zeros(2, 8, dtype=torch.int32))
    with pytest.raises(TypeError, match="expected dtype uint8; got float32"):
        unpack_bits(torch.zeros(2, 8))


@pytest.mark.plain_only
def test_opcheck_and_compile(device: str) -> None:
    x = values((5, 24), torch.float32, device)
    torch.library.opcheck(_pack_bits, (x,))
    torch.library.opcheck(_unpack_bits, (pack_bits(x),))

    @torch.compile(fullgraph=True)
    def round_trip(x: torch.Tensor) -> torch.Tensor:
        return unpack_bits(pack_bits(x * 2))

    assert torch.equal(round_trip(x), (x > 0).to(torch.uint8))


@pytest.mark.plain_only
@pytest.mark.parametrize("sm", TARGETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.uint8], ids=str)
def test_compiles_ahead_of_time(sm: int, dtype: torch.dtype) -> None:
    types = {"x_ptr": POINTERS[dtype], "codes_ptr": "*u8", "out_ptr": "*u8", "n_bytes": "i32"}
    compiled = compile_kernel(pack_kernel, sm, types, {"BLOCK": PACK_BLOCK})
    assert_fits(compiled, sm)
    wide = "ld.global.v4.b32" if dtype != torch.uint8 else "ld.global.v2.b32"
    assert wide in compiled.ptx, "the loads are no longer vectorised"
    assert_fits(compile_kernel(unpack_kernel, sm, types, {"BLOCK": UNPACK_BLOCK}), sm)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_gpu_equals_cpu_and_replays_in_a_graph(dtype: torch.dtype) -> None:
    x = values((4097, 128), dtype, "cuda")
    want = torch.from_numpy(expected(x.float()))
    assert torch.equal(pack_bits(x).cpu(), want)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        codes = pack_bits(x)
    x.neg_()
    graph.replay()
    assert torch.equal(codes.cpu(), torch.from_numpy(expected(x.float())))
