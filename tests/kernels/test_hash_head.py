"""hash_head against a slow loop, autograd of the reference, and pack_bits, through the kernel and through PyTorch."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels._runtime import INTERPRETED
from kernels.hash_head import PROGRAMS, STAGES, _hash_head, _shape, hash_head, hash_head_reference
from kernels.hash_head.kernel import hash_head_backward_kernel, hash_head_kernel
from kernels.pack_bits import pack_bits
from tests.kernels.aot import POINTERS, TARGETS, assert_fits, compile_kernel

WEIGHTS = torch.tensor([0.3, 0.2, 0.7])


def draw(rows: int, bits: int, sensors: int, device: str, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(rows * 1009 + bits)
    logits = [torch.randn((rows, bits), generator=generator) * 2 for _ in range(sensors)]
    for x in logits[:1]:
        if x.numel():
            x.view(-1)[:4] = torch.tensor([0.0, -0.0, 40.0, -1e-6])
    return [x.to(device, dtype).requires_grad_() for x in logits]


def total(outputs: Any, code_weights: torch.Tensor) -> torch.Tensor:
    terms = (outputs.quantisation, outputs.balance_bits, outputs.balance_samples)
    used = sum((codes.float() * code_weights).sum() for codes in outputs.codes)
    return used + sum(float(w) * t for w, t in zip(WEIGHTS, terms, strict=True))


def reference_total(logits: list[torch.Tensor], mean: bool, code_weights: torch.Tensor) -> torch.Tensor:
    hashes, terms = hash_head_reference(logits, mean)
    return sum((h * code_weights).sum() for h in hashes) + (terms * WEIGHTS.to(terms.device)).sum()


def slow_terms(logits: list[torch.Tensor], mean: bool) -> list[float]:
    h = [x.detach().double().cpu().tanh().numpy() for x in logits]
    rows, bits = h[0].shape
    quantised = 0.0
    for i in range(rows):
        for k in range(bits):
            sign = 1.0 if sum(x[i, k] for x in h) > 0 else -1.0
            quantised += sum((sign - x[i, k]) ** 2 for x in h)
    over_bits = sum(float(np.sum(line)) ** 2 for x in h for line in x)
    over_samples = sum(float(np.sum(line)) ** 2 for x in h for line in x.T)
    if mean:
        return [quantised / (len(h) * rows * bits), over_bits / (rows * bits**2), over_samples / (bits * rows**2)]
    return [quantised, over_bits, over_samples]


@pytest.mark.parametrize(
    ("rows", "bits", "sensors", "reduction"),
    [(0, 16, 2, "mean"), (1, 8, 1, "sum"), (7, 24, 2, "mean"), (70, 136, 1, "mean"), (67, 128, 2, "sum")],
)
@pytest.mark.usefixtures("poisoned")
def test_values_and_gradients(
    rows: int, bits: int, sensors: int, reduction: Literal["sum", "mean"], device: str, launches: Counter[str]
) -> None:
    logits = draw(rows, bits, sensors, device)
    outputs = hash_head(*logits, reduction=reduction)
    for codes, x in zip(outputs.codes, logits, strict=True):
        torch.testing.assert_close(codes, x.tanh(), rtol=1e-6, atol=1e-9)
    for packed, x in zip(outputs.packed.cpu(), logits, strict=True):
        assert torch.equal(packed, torch.from_numpy(np.packbits(x.detach().cpu() > 0, axis=1, bitorder="little")))
    terms = [float(t.detach()) for t in (outputs.quantisation, outputs.balance_bits, outputs.balance_samples)]
    assert terms == pytest.approx(slow_terms(logits, reduction == "mean") if rows else [0.0] * 3, rel=3e-5, abs=1e-5)
    code_weights = torch.linspace(-1, 1, bits, device=device)
    want = torch.autograd.grad(reference_total(logits, reduction == "mean", code_weights), logits)
    got = torch.autograd.grad(total(outputs, code_weights), logits)
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5 * float(theirs.abs().max()) if rows else 0)
    if INTERPRETED and rows:  # one launch forward, one backward
        assert launches == {"hash_head_kernel": 1, "hash_head_backward_kernel": 1}


@given(st.integers(1, 5), st.sampled_from([8, 16, 40]), st.integers(1, 2), st.booleans())
@settings(max_examples=4 if INTERPRETED else 25, deadline=None)
def test_any_shape(rows: int, bits: int, sensors: int, mean: bool) -> None:
    logits = draw(rows, bits, sensors, "cpu")
    outputs = hash_head(*logits, reduction="mean" if mean else "sum")
    terms = [float(t.detach()) for t in (outputs.quantisation, outputs.balance_bits, outputs.balance_samples)]
    assert terms == pytest.approx(slow_terms(logits, mean), rel=3e-5, abs=1e-5)


def test_closed_forms(device: str) -> None:
    saturated = torch.full((3, 8), 40.0, device=device) * torch.tensor([1, -1] * 4, device=device)
    outputs = hash_head(saturated, saturated)
    assert float(outputs.quantisation) == float(outputs.balance_bits) == 0
    assert float(outputs.balance_samples) == 2 * 8 * 9
    assert float(hash_head(torch.zeros((3, 8), device=device)).quantisation) == 3 * 8


def test_the_target_is_the_sign_of_both_and_an_exact_zero_goes_down(device: str) -> None:
    first, second = (torch.tensor([[v] + [0.0] * 7], device=device, requires_grad=True) for v in (1.5, -0.1))
    hash_head(first, second).quantisation.backward()
    assert first.grad is not None
    assert second.grad is not None
    assert first.grad[0, 0] < 0  # both rise to +1
    assert second.grad[0, 0] < 0
    assert (first.grad[0, 1:] > 0).all()  # zero and zero fall to -1


@pytest.mark.plain_only
def test_terms_alone_and_codes_alone_have_gradients() -> None:
    (x,) = draw(5, 16, 1, "cpu")
    (terms_only,) = torch.autograd.grad(hash_head(x).balance_bits, x)
    torch.testing.assert_close(terms_only, torch.autograd.grad(x.tanh().sum(1).square().sum(), x)[0])
    (codes_only,) = torch.autograd.grad(hash_head(x).codes[0].sum(), x)
    torch.testing.assert_close(codes_only, 1 - x.tanh().square())


def test_refusals_name_what_came() -> None:
    with pytest.raises(ValueError, match="multiple of 8 up to 1024; got K = 12"):
        hash_head(torch.zeros(2, 12))
    with pytest.raises(ValueError, match=r"second.*\[2, 8\]; got \[3, 8\]"):
        hash_head(torch.zeros(2, 8), torch.zeros(3, 8))
    with pytest.raises(TypeError, match="got float64"):
        hash_head(torch.zeros(2, 8).double())
    with pytest.raises(ValueError, match="'sum' or 'mean'; got 'median'"):
        hash_head(torch.zeros(2, 8), reduction="median")  # type: ignore[arg-type]  # that is the test


@pytest.mark.plain_only
def test_opcheck_and_compile() -> None:
    logits = draw(5, 24, 2, "cpu")
    torch.library.opcheck(_hash_head, (*logits, True))
    torch.library.opcheck(_hash_head, (logits[0], None, False))

    @torch.compile(fullgraph=True, backend="aot_eager")
    def loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        outputs = hash_head(a, b)
        return outputs.quantisation + outputs.codes[0].sum()

    hashes, terms = hash_head_reference(logits, False)
    compiled = loss(*logits)
    torch.testing.assert_close(compiled, terms[0] + hashes[0].sum())
    want = torch.autograd.grad(terms[0] + hashes[0].sum(), logits)
    torch.testing.assert_close(torch.autograd.grad(compiled, logits), want)


@pytest.mark.plain_only
@pytest.mark.parametrize("sm", TARGETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_compiles_ahead_of_time(sm: int, dtype: torch.dtype) -> None:
    names = ("first_ptr", "second_ptr", "codes_a_ptr", "codes_b_ptr", "grad_a_ptr", "grad_b_ptr")
    types = dict.fromkeys((*names, "out_a_ptr", "out_b_ptr"), POINTERS[dtype])
    types |= dict.fromkeys(("partial_ptr", "sums_ptr", "terms_ptr", "grad_terms_ptr"), "*fp32")
    types |= dict.fromkeys(("quantisation_scale", "bits_scale", "samples_scale"), "fp32")
    types |= {"packed_ptr": "*u8", "ticket_ptr": "*i32", "n_rows": "i32"}
    for bits, sensors in ((128, 1), (512, 2)):
        shape = _shape(bits, sensors)
        forward = compile_kernel(hash_head_kernel, sm, types, {**shape, "STAGES": STAGES}, num_warps=8)
        assert_fits(forward, sm)
        given = {**shape, "GIVEN_A": True, "GIVEN_B": True}
        assert_fits(compile_kernel(hash_head_backward_kernel, sm, types, given, num_warps=8), sm)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_gpu_error_is_at_most_twice_pytorchs_and_replays_in_a_graph(dtype: torch.dtype) -> None:
    rows = PROGRAMS * 64 + 5  # every program has work left when the first ones finish
    logits = draw(rows, 128, 2, "cuda", dtype)
    exact = [x.detach().float().requires_grad_() for x in logits]
    weights = torch.linspace(-1, 1, 128, device="cuda")
    want = torch.autograd.grad(reference_total(exact, True, weights), exact)
    eager_logits = [x.detach().requires_grad_() for x in logits]
    hashes = [x.tanh() for x in eager_logits]
    terms = hash_head_reference(eager_logits, True)[1]
    eager_loss = sum((h * weights.to(dtype)).sum() for h in hashes) + (terms * WEIGHTS.cuda()).sum()
    eager = torch.autograd.grad(eager_loss, eager_logits)
    got = torch.autograd.grad(total(hash_head(*logits, reduction="mean"), weights), logits)
    for ours, theirs, right in zip(got, eager, want, strict=True):
        assert (ours.float() - right).abs().max() <= 2 * (theirs.float() - right).abs().max() + 1e-6
    static = [x.detach() for x in logits]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = hash_head(*static)
    for _ in range(3):
        static[0].neg_()
        graph.replay()
        assert torch.equal(outputs.packed[0], pack_bits(static[0]))
        right = hash_head_reference([x.float() for x in static], False)[1]
        ours = torch.stack([outputs.quantisation, outputs.balance_bits, outputs.balance_samples])
        torch.testing.assert_close(ours, right, rtol=1e-4, atol=1e-2)
