"""Preparation against a slow NumPy loop, on every grid, both interpolations, any band order."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eoforge.data.bands import GROUP_OF, GROUPS, S1_BANDS, S2_BANDS
from eoforge.data.loading.batch import PatchBatch
from eoforge.data.loading.prepare import Prepare
from eoforge.errors import UsageError


def make_batch(size: int = 3, seed: int = 0) -> PatchBatch:
    rng = np.random.default_rng(seed)
    rasters = {
        g.column: torch.from_numpy(
            rng.normal(-15, 5, (size, *g.shape)).astype(np.float32)
            if g.dtype == "float32"
            else rng.integers(1, 65_536, (size, *g.shape)).astype(np.uint16)
        )
        for g in GROUPS
    }
    return PatchBatch([str(i) for i in range(size)], label_mask=torch.zeros(size, dtype=torch.int64), **rasters)


def nearest(band: np.ndarray, size: int) -> np.ndarray:
    source = [i * band.shape[0] // size for i in range(size)]
    return band[np.ix_(source, source)]


def bilinear(band: np.ndarray, size: int) -> np.ndarray:
    """Pixel centres aligned, edges repeated (align_corners=False)."""
    n = band.shape[0]
    at = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
    low = np.floor(at).astype(int)
    high, t = np.minimum(low + 1, n - 1), at - low
    rows = band[low] * (1 - t)[:, None] + band[high] * t[:, None]
    return rows[:, low] * (1 - t) + rows[:, high] * t


def reference(
    batch: PatchBatch, bands: tuple[str, ...], mean: np.ndarray, std: np.ndarray, size: int, how: str, flips: np.ndarray
) -> np.ndarray:
    out = np.empty((len(batch), len(bands), size, size))
    for b in range(len(batch)):
        for c, band in enumerate(bands):
            group = GROUP_OF[band]
            pixels = getattr(batch, group.column)[b, group.bands.index(band)].numpy().astype(np.float64)
            image = nearest(pixels, size) if how == "nearest" else bilinear(pixels, size)
            image = (image - mean[c]) / std[c]
            image = image[:, ::-1] if flips[b] & 1 else image
            out[b, c] = image[::-1] if flips[b] & 2 else image
    return out


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_equals_the_numpy_reference(data: st.DataObject) -> None:
    known = data.draw(st.sampled_from([S1_BANDS, S2_BANDS]))
    bands = tuple(data.draw(st.lists(st.sampled_from(known), min_size=1, unique=True)))
    size = data.draw(st.sampled_from([120, 60, 128, 224]))
    how = data.draw(st.sampled_from(["nearest", "bilinear"]))
    flips = np.array(data.draw(st.lists(st.integers(0, 3), min_size=2, max_size=2)), dtype=np.uint8)
    rng = np.random.default_rng(1)
    mean, std = rng.normal(500, 300, len(bands)), rng.uniform(50, 900, len(bands))
    batch = make_batch(2)
    got = Prepare(bands, mean, std, size, how)(batch, torch.from_numpy(flips))
    assert got.dtype == torch.float32
    expected = reference(batch, bands, mean.astype(np.float32), std.astype(np.float32), size, how, flips)
    # A source coordinate (up to 120) takes three float32 roundings per axis; the pixels it weighs differ by 65,535.
    weight_error = 0.0 if how == "nearest" else 2 * 3 * 120 * 2**-24
    np.testing.assert_allclose(got.numpy(), expected, rtol=5e-7, atol=65_535 / std.min() * (weight_error + 2**-23))


def test_nearest_copies_pixels_exactly() -> None:
    batch = make_batch()
    bands = ("B05", "B04", "B09", "B8A")
    got = Prepare(bands, np.zeros(4), np.ones(4))(batch)
    assert batch.s2_10m is not None
    assert batch.s2_60m is not None
    assert torch.equal(got[:, 1], batch.s2_10m[:, 2].float())
    assert torch.equal(got[:, 2, ::6, ::6], batch.s2_60m[:, 1].float())
    assert torch.equal(got[:, 2, 5::6, 5::6], batch.s2_60m[:, 1].float())


def test_no_flip_and_zero_flip_agree_and_bits_mean_their_axis() -> None:
    batch = make_batch(4)
    prepare = Prepare(S1_BANDS, np.zeros(2), np.ones(2))
    plain = prepare(batch)
    flipped = prepare(batch, torch.tensor([0, 1, 2, 3], dtype=torch.uint8))
    assert torch.equal(flipped[0], plain[0])
    assert torch.equal(flipped[1], plain[1].flip(-1))
    assert torch.equal(flipped[2], plain[2].flip(-2))
    assert torch.equal(flipped[3], plain[3].flip(-1, -2))


def test_images_in_use_keep_their_memory_and_what_is_free_is_used_again() -> None:
    prepare = Prepare(S2_BANDS, np.zeros(12), np.ones(12))
    first, second = make_batch(3, seed=1), make_batch(3, seed=2)
    images = prepare(first)
    view, place = images[1:, :2], images.data_ptr()
    expected = view.clone()
    del images
    other = prepare(second)
    assert other.data_ptr() != place, "a view still holds it"
    assert torch.equal(view, expected)
    del view
    again = prepare(make_batch(2, seed=1))
    assert again.data_ptr() == place
    assert torch.equal(again, Prepare(S2_BANDS, np.zeros(12), np.ones(12))(make_batch(2, seed=1)))
    assert len(prepare(make_batch(5))) == 5, "larger than any before"
    assert torch.equal(copy.deepcopy(prepare)(second), other)


def test_autograd_holds_the_images_it_needs() -> None:
    prepare = Prepare(S1_BANDS, np.zeros(2), np.ones(2))
    weight = torch.ones(2, 1, 1, requires_grad=True)
    expected = prepare(make_batch(seed=1)).sum(dim=(0, 2, 3))
    loss = (prepare(make_batch(seed=1)) * weight).sum()
    prepare(make_batch(seed=2))
    loss.backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad.ravel(), expected)


def test_statistics_move_with_the_module() -> None:
    prepare = Prepare(S2_BANDS, np.zeros(12), np.ones(12)).to("meta")
    assert prepare.mean.is_meta
    assert prepare.state_dict() == {}, "statistics belong to the bundle's config, not to the weights"


@pytest.mark.parametrize(
    ("bands", "mean", "std", "keywords"),
    [
        (("B02", "VV"), [0, 0], [1, 1], {}),
        (("B02", "B02"), [0, 0], [1, 1], {}),
        ((), [], [], {}),
        (("B10",), [0], [1], {}),
        (("B02",), [0, 0], [1, 1], {}),
        (("B02",), [0], [0], {}),
        (("B02",), [0], [1], {"interpolation": "cubic"}),
        (("B02",), [0], [1], {"size": 0}),
    ],
)
def test_refuses_what_does_not_fit(bands: tuple[str, ...], mean: list[float], std: list[float], keywords: dict) -> None:
    with pytest.raises(UsageError):
        Prepare(bands, mean, std, **keywords)


def test_refuses_a_batch_without_the_modality_and_wrong_flips() -> None:
    batch = make_batch()
    batch.s1 = None
    with pytest.raises(UsageError, match="holds no s1"):
        Prepare(S1_BANDS, [0, 0], [1, 1])(batch)
    with pytest.raises(UsageError, match="one flip per patch"):
        Prepare(S2_BANDS, np.zeros(12), np.ones(12))(batch, torch.zeros(2, dtype=torch.uint8))


@pytest.mark.gpu
def test_the_device_gives_the_same_values() -> None:
    batch = make_batch()
    prepare = Prepare(S2_BANDS, np.full(12, 900), np.full(12, 700))
    flip = torch.tensor([1, 2, 3], dtype=torch.uint8)
    on_device = prepare.to("cuda")(batch.to("cuda"), flip)
    np.testing.assert_allclose(on_device.cpu(), prepare.to("cpu")(batch, flip), rtol=1e-6, atol=1e-6)


def keys_cubic(row: np.ndarray, at: float, a: float = -0.75) -> float:
    """Cubic convolution of four neighbours, edges repeated."""
    left, total = int(np.floor(at)), 0.0
    for i in range(left - 1, left + 3):
        d = abs(at - i)
        inner = (a + 2) * d**3 - (a + 3) * d**2 + 1
        weight = inner if d <= 1 else a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
        total += weight * row[min(max(i, 0), len(row) - 1)]
    return total


def test_bicubic_aligns_corners() -> None:
    batch = make_batch(1)
    row = np.random.default_rng(1).integers(1, 9_000, 60)
    batch.s2_20m = torch.from_numpy(np.broadcast_to(row.astype(np.uint16), (1, 6, 60, 60)).copy())
    image = Prepare(("B05",), [100.0], [50.0], interpolation="bicubic")(batch)[0, 0]
    expected = [(keys_cubic(row, x * 59 / 119) - 100) / 50 for x in range(120)]
    assert image[7].tolist() == pytest.approx(expected, abs=1e-2)
    assert image[0, [0, -1]].tolist() == pytest.approx([(row[0] - 100) / 50, (row[-1] - 100) / 50], abs=1e-3)
