"""soft_pairwise against a slow loop and autograd of the reference, in the batch and against a bank."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels._runtime import INTERPRETED
from kernels.soft_pairwise import FORMS, Form, _soft_pairwise, soft_pairwise, soft_pairwise_reference, tiling
from kernels.soft_pairwise.kernel import soft_pairwise_kernel
from kernels.soft_pairwise.reference import sums_by_parts
from tests.kernels.aot import POINTERS, TARGETS, assert_fits, compile_kernel


def draw(rows: int, bits: int, seed: int = 0, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """Outputs, and labels of which some are empty and one uses bit 31."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randn((rows, bits), generator=generator).tanh().to(device, dtype)
    masks = torch.randint(0, 16, (rows,), generator=generator)
    masks[rows // 2 :: 7] |= 2**31
    return codes.requires_grad_(), masks.to(device)


def slow(codes: torch.Tensor, masks: torch.Tensor, others: torch.Tensor, other_masks: torch.Tensor, form: str) -> float:
    u, v, total = codes.detach().double(), others.detach().double(), 0.0
    bits = u.shape[1]
    for i, a in enumerate(masks.tolist()):
        for j, b in enumerate(other_masks.tolist()):
            sizes = a.bit_count() * b.bit_count()
            s = (a & b).bit_count() / math.sqrt(sizes) if sizes else 0.0
            t = float(u[i] @ v[j])
            theta = 0.5 * t
            if form == "cosine":
                total += (t / float(u[i].norm() * v[j].norm()) - s) ** 2
            elif s > 0.99 or s < 0.01:
                total += math.log(1 + math.exp(-abs(theta))) + max(theta, 0) - s * theta
            else:
                total += 0.1 * ((t if form == "corrected" else theta) + bits - 2 * s * bits) ** 2
    return total / (len(u) * len(v))


# 70 rows are more than one tile of rows; 300 others are cut into parts of more than one program.
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("rows", "others", "bits"), [(1, 0, 8), (70, 0, 40), (3, 300, 136)], ids=str)
@pytest.mark.usefixtures("poisoned")
def test_values_and_gradients(
    rows: int, others: int, bits: int, form: Form, device: str, launches: Counter[str]
) -> None:
    codes, masks = draw(rows, bits, 1, device)
    bank, bank_masks = draw(others, bits, 2, device) if others else (None, None)
    against = (codes, masks) if bank is None else (bank.detach(), bank_masks)
    loss = soft_pairwise(codes, masks, bank, bank_masks, form=form)
    want = soft_pairwise_reference(codes, masks, *against, form, 0.5, 0.1)
    torch.testing.assert_close(loss, want, rtol=2e-6, atol=1e-6)
    (right,) = torch.autograd.grad(3 * want, codes)
    (got,) = torch.autograd.grad(3 * loss, codes)
    torch.testing.assert_close(got, right, rtol=2e-5, atol=4e-6 * max(float(right.abs().max()), 1.0))
    if INTERPRETED:
        norms = 0 if form != "cosine" else 1 if bank is None else 2
        expected = {"soft_pairwise_kernel": 1} | ({"inverse_norm_kernel": norms} if norms else {})
        assert launches == expected


@given(st.integers(1, 5), st.integers(0, 6), st.sampled_from([8, 24]), st.sampled_from(FORMS), st.integers(0, 99))
@settings(max_examples=4 if INTERPRETED else 40, deadline=None)
def test_equals_the_loop(rows: int, others: int, bits: int, form: Form, seed: int) -> None:
    codes, masks = draw(rows, bits, seed)
    bank, bank_masks = draw(others, bits, seed + 1) if others else (None, None)
    against = (codes, masks) if bank is None else (bank, bank_masks)
    got = float(soft_pairwise(codes.detach(), masks.int() if others else masks, bank, bank_masks, form=form))
    assert got == pytest.approx(slow(codes, masks, *against, form), rel=1e-5, abs=1e-6)


def test_closed_forms(device: str) -> None:
    codes = torch.tensor([[1.0] * 8, [-1.0] * 8], device=device)
    alike = torch.tensor([3, 3], device=device)
    # All pairs are alike: of four, two have Theta = 4 and two Theta = -4.
    expected = (math.log(1 + math.exp(-4)) + math.log(1 + math.exp(4))) / 2
    assert float(soft_pairwise(codes, alike)) == pytest.approx(expected, rel=1e-6)
    half = torch.tensor([1, 3], device=device)  # s = 1 / sqrt 2 between the rows
    missed = (-8 + 8 - 2 * 8 / math.sqrt(2)) ** 2 * 0.1
    own = math.log(1 + math.exp(-4))
    assert float(soft_pairwise(codes, half)) == pytest.approx((missed + own) / 2, rel=1e-6)
    assert float(soft_pairwise(codes, alike, form="cosine")) == pytest.approx((0 + 4) / 2, rel=1e-6)
    empty = torch.zeros((0, 8), device=device)
    assert float(soft_pairwise(codes, alike, empty, alike[:0])) == 0


def test_the_published_target_is_out_of_reach_and_the_corrected_one_is_not(device: str) -> None:
    codes = torch.tensor([[1.0] * 64, [1.0] * 45 + [-1.0] * 19], device=device)  # <u, v> = 26 = 2 s K - K, nearly
    masks = torch.tensor([1, 3], device=device)
    corrected, published = (float(soft_pairwise(codes, masks, form=f)) for f in ("corrected", "published"))
    assert corrected < 0.1 < published


@pytest.mark.plain_only
def test_parts_do_not_change_the_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, masks = draw(6, 16, 3)
    whole = [sums_by_parts(codes.detach(), masks, codes.detach(), masks, form, 0.5, 0.1) for form in FORMS]
    monkeypatch.setattr("kernels.soft_pairwise.reference.PART_ELEMENTS", 12)
    parts = [sums_by_parts(codes.detach(), masks, codes.detach(), masks, form, 0.5, 0.1) for form in FORMS]
    torch.testing.assert_close(parts, whole)


def test_refusals_name_what_came() -> None:
    codes, masks = torch.zeros(2, 8), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="corrected, published, cosine; got 'other'"):
        soft_pairwise(codes, masks, form="other")  # type: ignore[arg-type]  # that is the test
    with pytest.raises(ValueError, match="both bank and bank_masks"):
        soft_pairwise(codes, masks, codes)
    with pytest.raises(TypeError, match=r"masks.*got uint8"):
        soft_pairwise(codes, masks.to(torch.uint8))
    with pytest.raises(ValueError, match="multiple of 8 up to 512; got K = 12"):
        soft_pairwise(torch.zeros(2, 12), masks)


@pytest.mark.plain_only
def test_opcheck_and_compile() -> None:
    codes, masks = draw(5, 16, 4)
    bank, bank_masks = draw(7, 16, 5)
    torch.library.opcheck(_soft_pairwise, (codes, masks, None, None, "cosine", 0.5, 0.1))
    torch.library.opcheck(_soft_pairwise, (codes, masks, bank.detach(), bank_masks, "corrected", 0.5, 0.1))
    compiled = torch.compile(soft_pairwise, fullgraph=True, backend="aot_eager")
    losses = [f(codes, masks, bank, bank_masks) for f in (compiled, soft_pairwise)]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, codes) for loss in losses))


@pytest.mark.plain_only
@pytest.mark.parametrize("sm", TARGETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_compiles_ahead_of_time(sm: int, dtype: torch.dtype) -> None:
    types = dict.fromkeys(("codes_ptr", "others_ptr"), POINTERS[dtype])
    types |= dict.fromkeys(("inverse_ptr", "other_inverse_ptr", "loss_ptr", "grad_ptr"), "*fp32")
    types |= dict.fromkeys(("masks_ptr", "other_masks_ptr"), "*i64")
    types |= dict.fromkeys(("n_rows", "n_others", "span"), "i32") | dict.fromkeys(("alpha", "gamma"), "fp32")
    for form, bits in ((0, 512), (1, 128), (2, 128)):
        constants = {"K": bits, "FORM": form, **tiling(bits, dtype, FORMS[form], sm >= 90)}
        warps, stages = constants.pop("num_warps"), constants.pop("num_stages")
        compiled = compile_kernel(soft_pairwise_kernel, sm, types, constants, num_warps=warps, num_stages=stages)
        assert_fits(compiled, sm)
        if sm == 90 and bits == 128 and (dtype == torch.bfloat16 or form == 1):
            assert "wgmma.mma_async" in compiled.ptx, "the products no longer run on Hopper's tensor cores"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_gpu_error_is_at_most_twice_pytorchs_and_stores_no_matrix(dtype: torch.dtype, form: Form) -> None:
    codes, masks = draw(300, 128, 6, "cuda", dtype)
    exact = codes.detach().float().requires_grad_()
    want = soft_pairwise_reference(exact, masks, exact, masks, form, 0.5, 0.1)
    (right,) = torch.autograd.grad(want, exact)
    plain = codes.detach().requires_grad_()
    product = plain @ plain.T  # PyTorch's own: products rounded to the type
    length = plain.float().norm(dim=1)
    scaled = product.float() if form != "cosine" else product.float() / length[:, None] / length
    loss = soft_pairwise(codes, masks, form=form)
    (got,) = torch.autograd.grad(loss, codes)
    torch.testing.assert_close(loss, want, rtol=1e-4, atol=1e-5)
    (eager,) = torch.autograd.grad(soft_pairwise_of(scaled, masks, form, 128), plain)
    assert (got.float() - right).abs().max() <= 2 * (eager.float() - right).abs().max() + 1e-5 * right.abs().max()
    big, big_masks = draw(16384, 128, 7, "cuda", dtype)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    soft_pairwise(big, big_masks, form=form).backward()
    assert torch.cuda.max_memory_allocated() - before < 16384 * 16384 / 2


def soft_pairwise_of(product: torch.Tensor, masks: torch.Tensor, form: str, bits: int) -> torch.Tensor:
    """The loss from the matrix of products, or of cosines."""
    from kernels.soft_pairwise import label_similarity_reference

    s = label_similarity_reference(masks, masks)
    if form == "cosine":
        return (product - s).square().mean()
    theta = 0.5 * product
    hard = torch.nn.functional.softplus(-theta.abs()) + theta.clamp(min=0) - s * theta
    soft = 0.1 * ((product if form == "corrected" else theta) + bits - 2 * s * bits).square()
    return torch.where((s >= 0.99) | (s <= 0.01), hard, soft).mean()


@pytest.mark.gpu
def test_gpu_replays_in_a_graph() -> None:
    codes, masks = draw(64, 64, 8, "cuda")
    bank, bank_masks = draw(1000, 64, 9, "cuda")
    codes, bank = codes.detach(), bank.detach()
    soft_pairwise(codes, masks, bank, bank_masks)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = soft_pairwise(codes, masks, bank, bank_masks)
    codes.neg_()
    graph.replay()
    want = soft_pairwise_reference(codes, masks, bank, bank_masks, "corrected", 0.5, 0.1)
    torch.testing.assert_close(loss, want, rtol=1e-4, atol=1e-4)
