"""Benchmark cases of the kernels: inputs on a device, the kernel, alternatives, and a correctness check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec

import torch
from torch import Tensor

from kernels.hamming_topk import hamming_topk, hamming_topk_reference
from kernels.masked_mse import masked_mse_reference, masked_mse_value_and_grad, masked_target
from kernels.pack_bits import pack_bits, pack_bits_reference, unpack_bits_reference
from kernels.patch_gather import ChannelTable, patch_gather, patch_gather_reference
from kernels.random_mask import mask_state, random_mask, random_mask_reference
from kernels.unshuffle import unshuffle, unshuffle_reference

Call = Callable[[], object]
GATE_QUERIES = 20
SIGN_ROWS = 2**22


@dataclass
class Case:
    """One row of the table.

    Attributes:
        name: Op and shape.
        ours: The op.
        gate: Raises AssertionError if ours is wrong; runs before any timing.
        rivals: Other ways to the same result, by name; ``torch.compile`` of ``eager`` is added by the runner.
        useful_bytes: Bytes that must be read and written once; 0 where the case is bound by arithmetic.
        pairs: Code pairs compared, for searches.
        flops: Multiplications and additions of the products that the result needs, computed once.
    """

    name: str
    ours: Call
    gate: Call
    rivals: dict[str, Call] = field(default_factory=dict)
    useful_bytes: int = 0
    pairs: int = 0
    flops: int = 0


Builder = Callable[[torch.device, bool], Case]


def same(got: Tensor, want: Tensor, tolerance: float = 0.0) -> None:
    """Asserts equality within ``tolerance`` of the largest wanted value."""
    if got.shape != want.shape:
        raise AssertionError(f"shape {tuple(got.shape)} instead of {tuple(want.shape)}")
    error = (got.double() - want.double()).abs().max().item() if got.numel() else 0.0
    if not error <= tolerance * max(want.double().abs().max().item(), 1.0):
        raise AssertionError(f"wrong by {error:.3g}")


def pack_case(device: torch.device, small: bool) -> Case:
    x = torch.randn((4096 if small else 2**20, 128), device=device).bfloat16()
    size = x.numel() * 2 + x.numel() // 8

    def eager() -> Tensor:
        return pack_bits_reference(x)

    return Case(
        f"pack_bits {list(x.shape)} bf16",
        lambda: pack_bits(x),
        lambda: same(pack_bits(x), eager()),
        {"eager": eager},
        size,
    )


def hamming_case(n_codes: int, n_queries: int, k: int) -> Builder:
    def build(device: torch.device, small: bool) -> Case:
        rows = min(n_codes // 100, 10_000) if small else n_codes
        generator = torch.Generator(device).manual_seed(1)
        codes = torch.randint(0, 256, (rows, 16), dtype=torch.uint8, device=device, generator=generator)
        queries = torch.randint(0, 256, (n_queries, 16), dtype=torch.uint8, device=device, generator=generator)
        rivals: dict[str, Call] = {}
        if n_queries * rows <= 2**31:
            archive = signs_of(codes)
            rivals["eager"] = lambda: (signs_of(queries) @ archive.T).topk(k)
        if device.type == "cpu" and find_spec("faiss"):
            rivals["faiss"] = faiss_search(codes, queries, k)

        def gate() -> None:
            part = slice(0, min(rows, 20_000))
            some = queries[:GATE_QUERIES]  # enough for the tensor-core scan, if the case has as many
            got = hamming_topk(some, codes[part], k)
            want = hamming_topk_reference(some, codes[part], k)
            same(got[0], want[0])
            same(got[1], want[1])

        name = f"hamming_topk {rows} x {n_queries}, 128 bit, k {k}"
        size = codes.numel() if n_queries < 16 else 0
        return Case(name, lambda: hamming_topk(queries, codes, k), gate, rivals, size, rows * n_queries)

    return build


def signs_of(codes: Tensor) -> Tensor:
    """Codes as +-1 in half precision, for a search by products in plain PyTorch; converted in parts to limit memory."""
    dtype = torch.float32 if codes.device.type == "cpu" else torch.float16
    signs = torch.empty((len(codes), codes.shape[1] * 8), dtype=dtype, device=codes.device)
    for some, part in zip(codes.split(SIGN_ROWS), signs.split(SIGN_ROWS), strict=True):
        part.copy_(unpack_bits_reference(some)).mul_(2).sub_(1)
    return signs


def faiss_search(codes: Tensor, queries: Tensor, k: int) -> Call:
    """faiss's exact binary index on the CPU."""
    import faiss

    index = faiss.IndexBinaryFlat(codes.shape[1] * 8)
    index.add(codes.numpy())
    return lambda: index.search(queries.numpy(), k)


def mask_case(device: torch.device, small: bool) -> Case:
    state, batch = mask_state(1, 0, device), 64 if small else 1024

    def eager() -> object:
        order = torch.rand((batch, 225), device=device).argsort(dim=1)
        return order, order.argsort(dim=1)

    def gate() -> None:
        mask, _ = random_mask(state, batch, 225, 56)
        for got, want in zip(mask[:3], random_mask_reference(state, batch, 225, 56, 56, "identical"), strict=False):
            same(got, want)

    size = batch * (225 * 2 + 29)
    return Case(f"random_mask B{batch} L225", lambda: random_mask(state, batch, 225, 56), gate, {"eager": eager}, size)


def gather_case(native: bool, patch: int, share: int) -> Builder:
    def build(device: torch.device, small: bool) -> Case:
        batch = 8 if small else 1024
        sources, table = images(batch, native, device)
        tokens = (120 // patch) ** 2
        ids = random_mask(mask_state(1, 0, device), batch, tokens, tokens // share)[0].visible
        arguments = (sources, ids, table.where, table.norm, None, 120, patch)

        def ours() -> Tensor:
            return patch_gather(sources, ids, table, size=120, patch=patch, dtype=torch.bfloat16)

        def eager() -> Tensor:
            return patch_gather_reference(*arguments).bfloat16()

        written = ids.numel() * table.where.shape[0] * patch * patch * 2
        read = sum(s.numel() * s.element_size() for s in sources) // share
        kind = "native uint16" if native else "dense bf16"
        name = f"patch_gather {kind} B{batch} p{patch} keep 1/{share}"
        return Case(name, ours, lambda: same(ours(), eager(), 1e-2), {"eager": eager}, written + read)

    return build


def mse_case(native: bool, patch: int) -> Builder:
    def build(device: torch.device, small: bool) -> Case:
        batch = 8 if small else 1024
        sources, table = images(batch, native, device)
        tokens = (120 // patch) ** 2
        ids = random_mask(mask_state(1, 0, device), batch, tokens, tokens // 2)[0].masked
        pred = torch.randn((*ids.shape, table.where.shape[0] * patch * patch), device=device).bfloat16()

        def ours() -> tuple[Tensor, Tensor]:
            return masked_mse_value_and_grad(pred, sources, ids, table, size=120, patch=patch, norm_pix=True)

        def eager() -> tuple[Tensor, Tensor]:
            target = masked_target(sources, ids, table.where, table.norm, None, 120, patch, False, True)
            return masked_mse_reference(pred, target), 2 / pred.numel() * (pred - target)

        def gate() -> None:
            for got, want in zip(ours(), eager(), strict=True):
                same(got, want, 1e-2)

        size = pred.numel() * 4 + sum(s.numel() * s.element_size() for s in sources) // 2
        kind = "native uint16" if native else "dense bf16"
        return Case(f"masked_mse + gradient {kind} B{batch} p{patch}", ours, gate, {"eager": eager}, size)

    return build


def unshuffle_case(device: torch.device, small: bool) -> Case:
    batch = 8 if small else 1024
    ranks = random_mask(mask_state(1, 0, device), batch, 64, 32)[0].ranks
    x = torch.randn((batch, 33, 512), device=device).bfloat16()
    token, pos = torch.randn(512, device=device), torch.randn((65, 512), device=device)

    def eager() -> Tensor:
        return unshuffle_reference(x, ranks, token, pos, 1)

    def ours() -> Tensor:
        return unshuffle(x, ranks, token, pos, 1)

    size = (x.numel() + batch * 65 * 512) * 2
    return Case(f"unshuffle B{batch} L64 D512 bf16", ours, lambda: same(ours(), eager(), 1e-2), {"eager": eager}, size)


def images(batch: int, native: bool, device: torch.device) -> tuple[list[Tensor], ChannelTable]:
    """Twelve bands of reBEN's shape: on three native grids, or one dense bf16 image."""
    if not native:
        table = ChannelTable.build([(0, c) for c in range(12)], [0.0] * 12, [1.0] * 12, device)
        return [torch.randn((batch, 12, 120, 120), device=device).bfloat16()], table
    shapes = [(4, 120), (6, 60), (2, 20)]
    sources = [torch.randint(1, 9000, (batch, c, s, s), device=device).to(torch.uint16) for c, s in shapes]
    where = [(i, c) for i, (channels, _) in enumerate(shapes) for c in range(channels)]
    return sources, ChannelTable.build(where, [1500.0] * 12, [900.0] * 12, device)


CASES: dict[str, list[Builder]] = {
    "pack_bits": [pack_case],
    "hamming_topk": [
        hamming_case(1_100_000, 1, 100),
        hamming_case(1_100_000, 1, 1000),
        hamming_case(1_100_000, 1024, 100),
        hamming_case(10_000_000, 1024, 100),
        hamming_case(100_000_000, 1, 100),
    ],
    "random_mask": [mask_case],
    "patch_gather": [gather_case(False, 15, 2), gather_case(False, 8, 4), gather_case(True, 15, 2)],
    "masked_mse": [mse_case(False, 15), mse_case(True, 15)],
    "unshuffle": [unshuffle_case],
}
