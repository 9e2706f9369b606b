"""Benchmark cases of the losses: forward and backward pass together, as training calls them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.kernels.cases import Builder, Case, same
from kernels.hash_head import hash_head, hash_head_reference
from kernels.nt_xent import neighbour_similarity, neighbour_similarity_reference, nt_xent, nt_xent_reference
from kernels.nt_xent.reference import nearest_neighbours_reference
from kernels.pack_bits import pack_bits_reference
from kernels.soft_pairwise import Form, soft_pairwise, soft_pairwise_reference

TEMPERATURE = 0.07


def gradient(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """The gradients of a loss, as in a training step."""
    return torch.autograd.grad(loss, inputs)


def head_case(rows: int, dtype: torch.dtype) -> Builder:
    """Forward only: codes, bits and the three terms, against the same in PyTorch."""

    def build(device: torch.device, small: bool) -> Case:
        x = torch.randn((min(rows, 4096) if small else rows, 128), device=device).to(dtype)

        def ours() -> tuple[Tensor, ...]:
            outputs = hash_head(x)
            return outputs.codes[0], outputs.packed, outputs.quantisation, outputs.balance_bits, outputs.balance_samples

        def eager() -> tuple[Tensor, ...]:
            hashes, terms = hash_head_reference([x], False)
            return hashes[0].to(dtype), pack_bits_reference(x), *terms.unbind()

        def gate() -> None:
            got, want = ours(), eager()
            same(got[0], want[0], 1e-2)
            same(got[1][0], want[1])
            for ours_term, term in zip(got[2:], want[2:], strict=True):
                same(ours_term, term, 1e-3)

        size = x.numel() * 2 * x.element_size() + x.numel() // 8
        return Case(f"hash_head {list(x.shape)} {short(dtype)}", ours, gate, {"eager": eager}, size)

    return build


def contrast_case(pairs: int, dim: int, dtype: torch.dtype) -> Builder:
    def build(device: torch.device, small: bool) -> Case:
        first, second = (
            torch.randn((min(pairs, 64) if small else pairs, dim), device=device).to(dtype).requires_grad_()
            for _ in range(2)
        )

        def ours() -> tuple[Tensor, ...]:
            return gradient(nt_xent(first, second, TEMPERATURE), first, second)

        def eager() -> tuple[Tensor, ...]:
            return gradient(nt_xent_reference(torch.cat([first, second]), TEMPERATURE), first, second)

        def gate() -> None:
            for got, want in zip(ours(), eager(), strict=True):
                scale = want.abs().max()
                same(got / scale, want / scale, 2e-2)

        rows = 2 * len(first)
        name = f"nt_xent + gradient B{len(first)} D{dim} {short(dtype)}"
        # Products that the loss and its gradient need: S, and weights times rows.
        return Case(name, ours, gate, {"eager": eager}, flops=2 * 2 * rows * rows * dim)

    return build


def neighbour_case(device: torch.device, small: bool) -> Case:
    x = torch.randn((128 if small else 2048, 768), device=device).requires_grad_()
    return Case(
        f"neighbour_similarity + gradient {list(x.shape)} fp32",
        lambda: gradient(neighbour_similarity(x), x),
        lambda: same(neighbour_similarity(x), neighbour_similarity_reference(x, nearest_neighbours_reference(x)), 1e-4),
        {"eager": lambda: gradient(neighbour_similarity_reference(x, nearest_neighbours_reference(x)), x)},
        flops=2 * x.shape[0] ** 2 * x.shape[1],
    )


def pairwise_case(rows: int, others: int, dtype: torch.dtype, form: Form = "corrected") -> Builder:
    """In the batch with ``others`` 0, else against a bank; K = 128 and 19 classes."""

    def build(device: torch.device, small: bool) -> Case:
        count, bits = (128 if small else rows), 128
        codes = torch.randn((count, bits), device=device).tanh().to(dtype).requires_grad_()
        masks = torch.randint(1, 2**19, (count,), device=device)
        length = min(others, 1000) if small else others
        bank = torch.randn((length, bits), device=device).tanh().to(dtype) if others else None
        bank_masks = torch.randint(1, 2**19, (length,), device=device) if others else None

        def ours() -> tuple[Tensor, ...]:
            return gradient(soft_pairwise(codes, masks, bank, bank_masks, form=form), codes)

        def eager() -> tuple[Tensor, ...]:
            against = (codes, masks) if bank is None or bank_masks is None else (bank, bank_masks)
            return gradient(soft_pairwise_reference(codes, masks, *against, form, 0.5, 0.1), codes)

        def gate() -> None:
            (got,), (want,) = ours(), eager()
            scale = want.abs().max()
            same(functional.normalize(got.float(), dim=0), functional.normalize(want.float(), dim=0), 2e-2)
            same(got / scale, want / scale, 2e-2)

        name = f"soft_pairwise + gradient {form} {count} x {length or count} K{bits} {short(dtype)}"
        read = (length * bits * codes.element_size()) if others else 0
        return Case(name, ours, gate, {"eager": eager}, read, flops=2 * 2 * count * (length or count) * bits)

    return build


def short(dtype: torch.dtype) -> str:
    """Name of a dtype in tables."""
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]


LOSS_CASES: dict[str, list[Builder]] = {
    "hash_head": [
        head_case(2**20, torch.bfloat16),
        head_case(2**20, torch.float32),
        head_case(4096, torch.float32),
    ],
    "nt_xent": [
        contrast_case(128, 768, torch.bfloat16),
        contrast_case(2048, 768, torch.bfloat16),
        contrast_case(2048, 768, torch.float32),
        neighbour_case,
    ],
    "soft_pairwise": [
        pairwise_case(16384, 0, torch.bfloat16),
        pairwise_case(16384, 0, torch.float32),
        pairwise_case(128, 237_871, torch.bfloat16),
        pairwise_case(128, 237_871, torch.float32, "cosine"),
    ],
}
