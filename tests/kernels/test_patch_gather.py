"""patch_gather against upsample, flip, cut and gather in PyTorch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels._runtime import INTERPRETED
from kernels.patch_gather import ChannelTable, _patch_gather, patch_gather, patch_gather_reference
from kernels.patch_gather.kernel import patch_gather_kernel
from kernels.patch_gather.sources import kernel_shape
from tests.kernels.aot import POINTERS, TARGETS, assert_fits, compile_kernel
from tests.kernels.images import Images, float_images, native_images


def reference(images: Images, size: int, patch: int, flip: Any = None, pixel_major: bool = False) -> torch.Tensor:
    table = images.table
    return patch_gather_reference(
        images.sources, images.visible, table.where, table.norm, flip, size, patch, pixel_major
    )


@pytest.mark.parametrize("pixel_major", [False, True])
@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize(
    ("batch", "size", "patch", "keep"), [(4, 12, 3, 7), (1, 6, 1, 36), (2, 12, 4, 0), (0, 6, 2, 1)]
)
@pytest.mark.usefixtures("poisoned")
def test_native_grids(
    batch: int, size: int, patch: int, keep: int, flipped: bool, pixel_major: bool, device: str, launches: Counter[str]
) -> None:
    images = native_images(batch, size, patch, keep, device)
    flip = images.flip if flipped else None
    launches.clear()
    got = patch_gather(
        images.sources, images.visible, images.table, size=size, patch=patch, flip=flip, pixel_major=pixel_major
    )
    torch.testing.assert_close(got, reference(images, size, patch, flip, pixel_major), rtol=0, atol=2e-6)
    assert launches["patch_gather_kernel"] == (1 if INTERPRETED and batch and keep else 0)


@given(st.integers(1, 3), st.sampled_from([(6, 1), (6, 2), (12, 3), (18, 6), (10, 5)]), st.data())
@settings(max_examples=6 if INTERPRETED else 50, deadline=None)
def test_any_dense_image(batch: int, grid: tuple[int, int], data: st.DataObject) -> None:
    size, patch = grid
    keep = data.draw(st.integers(0, (size // patch) ** 2))
    images = float_images(batch, size, patch, keep, "cpu", torch.float32)
    got = patch_gather(images.sources, images.visible, images.table, size=size, patch=patch, flip=images.flip)
    torch.testing.assert_close(got, reference(images, size, patch, images.flip), rtol=0, atol=2e-6)


def test_agrees_with_a_strided_convolution(device: str) -> None:
    """The promise to the embedding: gathered tokens times the flattened filters = the convolution at these places."""
    images = float_images(2, 12, 4, 9, device, torch.float32)
    filters = torch.randn((5, 3, 4, 4), generator=torch.Generator().manual_seed(0)).to(device)
    tokens = patch_gather(images.sources, images.visible, images.table, size=12, patch=4)
    norm = images.table.norm
    dense = (images.sources[0][:, images.table.where[:, 1].long()] - norm[:, 0, None, None]) * norm[:, 1, None, None]
    want = torch.nn.functional.conv2d(dense, filters, stride=4).flatten(2).transpose(1, 2)
    want = want.gather(1, images.visible.long().unsqueeze(-1).expand(-1, -1, 5))
    torch.testing.assert_close(tokens @ filters.flatten(1).t(), want, rtol=1e-4, atol=1e-4)


def test_refusals_name_what_came() -> None:
    images = native_images(2, 12, 3, 4, "cpu")
    call: dict[str, Any] = {"table": images.table, "size": 12, "patch": 3}
    with pytest.raises(TypeError, match=r"sources\[1\]\): expected dtype uint16; got float32"):
        patch_gather([images.sources[0], images.sources[1].float()], images.visible, **call)
    with pytest.raises(TypeError, match="expected dtype uint8; got int64"):
        patch_gather(images.sources, images.visible.long(), **call)
    with pytest.raises(ValueError, match="a patch that divides size = 12"):
        patch_gather(images.sources, images.visible, **{**call, "patch": 5})
    with pytest.raises(ValueError, match="a side that divides size = 16; got 12"):
        patch_gather(images.sources, images.visible, **{**call, "size": 16, "patch": 4})
    with pytest.raises(ValueError, match="positive values; got 0"):
        ChannelTable.build([(0, 0)], [0.0], [0.0])


@pytest.mark.plain_only
def test_opcheck_and_compile() -> None:
    images = native_images(2, 12, 3, 4, "cpu")
    table = images.table
    arguments = (images.sources, images.visible, table.where, table.norm, images.flip, 12, 3, torch.bfloat16, False)
    torch.library.opcheck(_patch_gather, arguments)
    compiled = torch.compile(patch_gather, fullgraph=True, backend="aot_eager")
    got = compiled(images.sources, images.visible, table, size=12, patch=3)
    torch.testing.assert_close(got, reference(images, 12, 3))


@pytest.mark.plain_only
@pytest.mark.parametrize("sm", TARGETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("patch", [8, 15])
def test_compiles_ahead_of_time(sm: int, dtype: torch.dtype, patch: int) -> None:
    """Native uint16 grids with all twelve bands, and one dense source of the output's type."""
    types = {"where_ptr": "*i32", "norm_ptr": "*fp32", "flip_ptr": "*u8", "ids_ptr": "*u8", "out_ptr": POINTERS[dtype]}
    types |= {"n_tokens": "i32", "ids_stride": "i32"}
    native = [torch.empty((1, c, s, s), dtype=torch.uint16) for c, s in ((4, 120), (6, 60), (2, 20))]
    dense = [torch.empty((1, 14, 120, 120), dtype=dtype)]
    for sources, channels in ((native, 12), (dense, 14)):
        shape = kernel_shape(sources, channels, 120, patch, True)
        warps = shape.pop("num_warps")
        pointers = dict.fromkeys(("s0_ptr", "s1_ptr", "s2_ptr"), POINTERS[sources[0].dtype])
        constants = {**shape, "PIXEL_MAJOR": False}
        assert_fits(compile_kernel(patch_gather_kernel, sm, types | pointers, constants, num_warps=warps), sm)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_gpu_equals_cpu(dtype: torch.dtype) -> None:
    images = native_images(8, 120, 15, 32, "cuda")
    call: dict[str, Any] = {"size": 120, "patch": 15, "flip": images.flip, "dtype": dtype}
    got = patch_gather(images.sources, images.visible, images.table, **call)
    want = reference(images, 120, 15, images.flip)
    bound = 2 * (want.to(dtype).float() - want).abs().max() + 1e-5
    assert (got.float() - want).abs().max() <= bound
