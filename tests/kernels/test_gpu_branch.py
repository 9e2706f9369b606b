"""The branch that a GPU takes, traced on fake CUDA tensors: no GPU is needed to see what would wait for the host.

A fake tensor has a shape, a type and a device but no values: reading one raises or shows in the trace, as does a number
that is copied from the host, and every launch is recorded with its arguments. What passes here can be captured in a
CUDA graph and traced by ``torch.compile``; what the kernels compute is tested elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from kernels.hamming_topk import _hamming_topk
from kernels.hash_head import _hash_head, _hash_head_backward
from kernels.masked_mse import _masked_mse, _masked_mse_backward
from kernels.nt_xent import _neighbour_backward, _neighbour_similarity, _nt_xent, _nt_xent_backward
from kernels.pack_bits import _pack_bits, _unpack_bits
from kernels.patch_gather import _patch_gather, patch_gather_reference
from kernels.random_mask import _random_mask
from kernels.soft_pairwise import _soft_pairwise
from kernels.unshuffle import _unshuffle, _unshuffle_backward

pytestmark = pytest.mark.plain_only

LAUNCH = torch.ops.higher_order.triton_kernel_wrapper_mutation
F32, BF16, U8, U16, I32, I64 = torch.float32, torch.bfloat16, torch.uint8, torch.uint16, torch.int32, torch.int64


def cuda(*shape: int, dtype: torch.dtype = F32) -> Callable[[], torch.Tensor]:
    """Makes the tensor later, inside the fake mode."""
    return lambda: torch.empty(shape, dtype=dtype, device="cuda")


ROW = cuda(64)
BANDS = [cuda(2, c, s, s, dtype=U16) for c, s in ((4, 120), (6, 60), (2, 20))]
IDS, WHERE, NORM = cuda(2, 32, dtype=U8), cuda(12, 2, dtype=I32), cuda(12, 2)
PRED = cuda(2, 32, 12 * 225, dtype=BF16)
GRID = (120, 15)
CODES, ONE, MANY = (cuda(n, 16, dtype=U8) for n in (70_000, 1, 40))
# Of each: the op, its arguments, the number of kernels it launches.
CASES: dict[str, tuple[Any, list[Any], int]] = {
    "pack_bits": (_pack_bits, [cuda(64, 128, dtype=BF16)], 1),
    "unpack_bits": (_unpack_bits, [cuda(64, 16, dtype=U8)], 1),
    "hamming_topk, one query": (_hamming_topk, [ONE, CODES, 100, None], 5),
    "hamming_topk, many": (_hamming_topk, [MANY, CODES, 100, cuda(8750, dtype=U8)], 7),
    "random_mask": (_random_mask, [cuda(2, dtype=I64), 3, 64, 32, 32, "disjoint"], 1),
    "patch_gather": (_patch_gather, [BANDS, IDS, WHERE, NORM, None, *GRID, BF16, False], 1),
    "masked_mse": (_masked_mse, [PRED, BANDS, IDS, WHERE, NORM, None, *GRID, True, True, 1.0], 1),
    "masked_mse backward": (_masked_mse_backward, [PRED, cuda()], 1),
    "unshuffle": (_unshuffle, [cuda(2, 33, 512), cuda(2, 64, dtype=U8), cuda(512), cuda(65, 512), 1], 1),
    "unshuffle backward": (_unshuffle_backward, [cuda(2, 65, 512), cuda(2, 64, dtype=U8), 33, 1], 1),
    "hash_head": (_hash_head, [cuda(64, 128), cuda(64, 128), True], 1),
    "hash_head backward": (
        _hash_head_backward,
        [cuda(64, 128), cuda(64, 128), None, cuda(64, 128), cuda(3), cuda(2, 128), True],
        1,
    ),
    "nt_xent": (_nt_xent, [cuda(64, 768), 2.0], 2),
    "nt_xent backward": (_nt_xent_backward, [cuda(64, 768), ROW, ROW, cuda(), 2.0], 1),
    "neighbour_similarity": (_neighbour_similarity, [cuda(64, 48)], 1),
    "neighbour_similarity backward": (_neighbour_backward, [cuda(64, 48), cuda(64, dtype=I32), ROW, ROW, cuda()], 1),
    "soft_pairwise": (
        _soft_pairwise,
        [cuda(64, 128), cuda(64, dtype=I64), cuda(900, 128), cuda(900, dtype=I64), "cosine", 0.5, 0.1],
        3,
    ),
}


def waits(targets: list[Any]) -> list[str]:
    """Those that read a value on the host, or bring one from there."""
    return [str(t) for t in targets if re.search("item|scalar_dense|nonzero|lift_fresh", str(t))]


@pytest.mark.parametrize("name", CASES)
def test_gpu_branch_launches_and_never_waits_for_the_host(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op, makers, launches = CASES[name]
    # What a machine without a driver cannot answer; and launches are traced, not made.
    monkeypatch.setattr(torch.cuda, "_exchange_device", lambda index: index)
    monkeypatch.setattr(torch.cuda, "_maybe_exchange_device", lambda index: index)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr("torch._library.triton.is_wrap_triton_enabled", lambda: True)
    with FakeTensorMode():
        arguments = [[m() for m in a] if isinstance(a, list) else a() if callable(a) else a for a in makers]
        promised = op(*arguments)  # by register_fake
        traced = make_fx(lambda: op._init_fn(*arguments), tracing_mode="fake")()
        nodes = list(traced.graph.nodes)
        values = torch.utils._pytree.tree_map_only(torch.fx.Node, lambda n: n.meta["val"], nodes[-1].args[0])
    targets = [node.target for node in nodes if node.op == "call_function"]
    assert targets.count(LAUNCH) == launches
    assert not waits(targets)
    flat = torch.utils._pytree.tree_leaves
    for got, want in zip(flat(values), flat(promised), strict=True):
        assert (got.shape, got.dtype, got.device) == (want.shape, want.dtype, want.device)


def test_the_reference_of_the_gather_can_be_captured_too() -> None:
    """The benchmarks time it in a CUDA graph, where a copy from the host is an error."""
    with FakeTensorMode():
        bands, ids, where, norm = [make() for make in BANDS], IDS(), WHERE(), NORM()
        traced = make_fx(lambda: patch_gather_reference(bands, ids, where, norm, None, *GRID), tracing_mode="fake")()
    assert not waits([node.target for node in traced.graph.nodes])
