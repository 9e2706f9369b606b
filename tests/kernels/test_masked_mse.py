"""masked_mse against patchify + gather + mean square, forward and gradient."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels._runtime import INTERPRETED
from kernels.masked_mse import _masked_mse, masked_mse, masked_mse_reference, masked_mse_value_and_grad, masked_target
from kernels.masked_mse.kernel import masked_mse_kernel, scale_kernel
from kernels.masked_mse.reference import EPS
from kernels.patch_gather.sources import kernel_shape
from tests.kernels.aot import POINTERS, TARGETS, assert_fits, compile_kernel
from tests.kernels.images import Images, float_images, native_images


def prediction(images: Images, patch: int, device: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    shape = (*images.masked.shape, images.table.where.shape[0] * patch * patch)
    return torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(device, dtype).requires_grad_()


def target_of(images: Images, size: int, patch: int, **options: Any) -> torch.Tensor:
    table = images.table
    flip, pixel_major, norm_pix = (options.get(n) for n in ("flip", "pixel_major", "norm_pix"))
    return masked_target(
        images.sources, images.masked, table.where, table.norm, flip, size, patch, bool(pixel_major), bool(norm_pix)
    )


def assert_matches(images: Images, size: int, patch: int, device: str, **options: Any) -> None:
    pred = prediction(images, patch, device)
    want = masked_mse_reference(pred, target_of(images, size, patch, **options))
    (want_grad,) = torch.autograd.grad(want * 3, pred)
    call: dict[str, Any] = {"size": size, "patch": patch, **options}
    loss = masked_mse(pred, images.sources, images.masked, images.table, **call)
    (grad,) = torch.autograd.grad(loss * 3, pred)
    torch.testing.assert_close(loss, want, rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(grad, want_grad, rtol=1e-5, atol=1e-6)
    value, unit = masked_mse_value_and_grad(pred, images.sources, images.masked, images.table, **call)
    torch.testing.assert_close(value, want, rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(unit * 3, want_grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm_pix", [False, True])
@pytest.mark.parametrize("pixel_major", [False, True])
@pytest.mark.parametrize(("batch", "size", "patch", "keep"), [(2, 12, 3, 9), (1, 6, 2, 8), (1, 6, 3, 4), (0, 6, 2, 1)])
@pytest.mark.usefixtures("poisoned")
def test_native_grids(
    batch: int, size: int, patch: int, keep: int, pixel_major: bool, norm_pix: bool, device: str, launches: Counter[str]
) -> None:
    images = native_images(batch, size, patch, keep, device)
    launches.clear()
    options: dict[str, Any] = {"flip": images.flip, "pixel_major": pixel_major, "norm_pix": norm_pix}
    assert_matches(images, size, patch, device, **options)
    if INTERPRETED and images.masked.numel():
        assert launches == {"masked_mse_kernel": 2, "scale_kernel": 1}


@given(st.integers(1, 2), st.sampled_from([(6, 1), (6, 2), (9, 3)]), st.booleans(), st.data())
@settings(max_examples=5 if INTERPRETED else 40, deadline=None)
def test_any_dense_image(batch: int, grid: tuple[int, int], norm_pix: bool, data: st.DataObject) -> None:
    size, patch = grid
    images = float_images(batch, size, patch, data.draw(st.integers(0, (size // patch) ** 2)), "cpu", torch.float32)
    assert_matches(images, size, patch, "cpu", norm_pix=norm_pix)


def test_a_second_backward_gives_the_same_gradient(device: str) -> None:
    images = float_images(2, 6, 2, 4, device, torch.float32)
    pred = prediction(images, 2, device)
    loss = masked_mse(pred, images.sources, images.masked, images.table, size=6, patch=2)
    (first,) = torch.autograd.grad(loss * 2, pred, retain_graph=True)
    (second,) = torch.autograd.grad(loss * 2, pred)
    assert torch.equal(first, second)


def test_half_precision_gradients_do_not_underflow() -> None:
    """What a loss scaler needs: the saved residual is unscaled, so scale * 2 / n meets it in float32."""
    images = float_images(1, 6, 2, 4, "cpu", torch.float32)
    pred = prediction(images, 2, "cpu", torch.float16)
    loss = masked_mse(pred, images.sources, images.masked, images.table, size=6, patch=2)
    (grad,) = torch.autograd.grad(loss * 1e-6, pred)
    (scaled,) = torch.autograd.grad(
        masked_mse(pred, images.sources, images.masked, images.table, size=6, patch=2) * 64.0, pred
    )
    assert (scaled != 0).all()
    assert (grad.float() * 64e6 - scaled.float()).abs().max() < 64e6 * 6e-8


def test_refusals_name_what_came() -> None:
    images = float_images(2, 6, 2, 4, "cpu", torch.float32)
    pred = prediction(images, 2, "cpu")
    with pytest.raises(ValueError, match=r"\[B, M, C p p\] = \[2, 5, 12\]; got \[2, 4, 12\]"):
        masked_mse(pred[:, 1:], images.sources, images.masked, images.table, size=6, patch=2)
    with pytest.raises(TypeError, match="masked_mse\\(pred\\): expected dtype float32"):
        masked_mse(pred.double(), images.sources, images.masked, images.table, size=6, patch=2)


@pytest.mark.plain_only
def test_opcheck_and_compile() -> None:
    images = native_images(2, 12, 3, 4, "cpu")
    table, pred = images.table, prediction(images, 3, "cpu")
    arguments = (images.sources, images.masked, table.where, table.norm, None, 12, 3, False, True, 1.0)
    torch.library.opcheck(_masked_mse, (pred, *arguments))
    compiled = torch.compile(masked_mse, fullgraph=True, backend="aot_eager")
    loss = compiled(pred, images.sources, images.masked, table, size=12, patch=3)
    torch.testing.assert_close(loss, masked_mse_reference(pred, target_of(images, 12, 3)))
    assert torch.autograd.grad(loss, pred)[0].abs().sum() > 0


@pytest.mark.plain_only
@pytest.mark.parametrize("sm", TARGETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("patch", [8, 15])
def test_compiles_ahead_of_time(sm: int, dtype: torch.dtype, patch: int) -> None:
    pointers = dict.fromkeys(("pred_ptr", "residual_ptr", "out_ptr"), POINTERS[dtype])
    types = pointers | {"where_ptr": "*i32", "norm_ptr": "*fp32", "flip_ptr": "*u8", "ids_ptr": "*u8"}
    types |= {"sums_ptr": "*fp32", "grad_ptr": "*fp32", "residual_scale": "fp32", "factor": "fp32"}
    types |= dict.fromkeys(("n_tokens", "ids_stride", "n_elements"), "i32")
    native = [torch.empty((1, c, s, s), dtype=torch.uint16) for c, s in ((4, 120), (6, 60), (2, 20))]
    dense = [torch.empty((1, 14, 120, 120), dtype=dtype)]
    for sources, channels in ((native, 12), (dense, 14)):
        shape = kernel_shape(sources, channels, 120, patch, True)
        warps = shape.pop("num_warps")
        images = dict.fromkeys(("s0_ptr", "s1_ptr", "s2_ptr"), POINTERS[sources[0].dtype])
        constants = {**shape, "PIXEL_MAJOR": True, "NORM_PIX": True, "EPS": EPS}
        assert_fits(compile_kernel(masked_mse_kernel, sm, types | images, constants, num_warps=warps), sm)
    assert_fits(compile_kernel(scale_kernel, sm, types, {"BLOCK": 2048}), sm)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("norm_pix", [False, True])
def test_gpu_error_is_at_most_twice_pytorchs(dtype: torch.dtype, norm_pix: bool) -> None:
    images = native_images(8, 120, 15, 32, "cuda")
    pred = prediction(images, 15, "cuda", dtype)
    target = target_of(images, 120, 15, norm_pix=norm_pix)
    exact = pred.detach().float().requires_grad_()
    want = torch.autograd.grad(masked_mse_reference(exact, target), exact)[0]
    eager = torch.autograd.grad((pred - target.to(dtype)).square().mean(), pred)[0]
    loss = masked_mse(pred, images.sources, images.masked, images.table, size=120, patch=15, norm_pix=norm_pix)
    got = torch.autograd.grad(loss, pred)[0]
    torch.testing.assert_close(loss, masked_mse_reference(exact, target), rtol=1e-5, atol=1e-6)
    assert (got.float() - want).abs().max() <= 2 * (eager.float() - want).abs().max() + 1e-9
