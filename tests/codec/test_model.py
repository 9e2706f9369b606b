"""Learned codec: training, bands, shapes, rates, transforms."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from eoforge.codec.container import inspect
from eoforge.codec.learned import pieces
from eoforge.codec.learned.config import CodecConfig
from eoforge.codec.learned.exact import ONE
from eoforge.codec.learned.model import Codec
from eoforge.codec.learned.rate import bits_per_pixel, psnr
from eoforge.codec.learned.transforms import GDN, SpaceToDepth, low_frequencies
from eoforge.codec.raster import Raster, factor_of, from_batch, from_pair, grid_shape
from eoforge.data.bands import S2_BANDS
from eoforge.data.records import PatchPair
from eoforge.errors import UsageError

from .conftest import SMALL, batch_of, train


def test_forward_output_shapes(codec: Codec, pairs: list[PatchPair]) -> None:
    batch = batch_of(pairs[:2])
    out = codec(batch, torch.tensor([1.0, 6.5]), "s2")
    assert set(out.x_hat) == set(S2_BANDS)
    assert out.x_hat["B02"].shape == (2, 120, 120)
    assert out.x_hat["B05"].shape == (2, 60, 60)
    assert out.x_hat["B01"].shape == (2, 20, 20)
    assert out.y_hat.shape == out.y.shape == out.likelihoods["y"].shape == (2, 40, 15, 15)
    assert out.likelihoods["z"].shape == (2, 12, 4, 4)
    assert out.logits.shape == (2, 32)
    bits = -out.likelihoods["y"].log2().sum((1, 2, 3))
    assert bits[1] > bits[0]


@pytest.mark.parametrize("shape", [(120, 120), (6, 6), (90, 132), (126, 114)])
def test_no_symbol_is_spent_on_padding_beyond_whole_blocks(codec: Codec, shape: tuple[int, int]) -> None:
    branch = codec.branch("s2")
    padded = tuple(-(-side // 6) * 3 for side in shape)  # the 20 m grid holds whole pixels of 60 m
    blocks = tuple(-(-side // branch.block) for side in padded)
    assert branch.latent_shape(shape) == blocks
    grids = {band: torch.full((1, *grid_shape(shape, factor_of(band))), 1000.0) for band in S2_BANDS}
    stored = branch.quantise(branch.latent(branch.pack(grids, shape)), pieces.fraction_of(3))
    assert stored.symbols.shape[2:] == stored.entries.shape[2:] == blocks
    assert stored.z.shape[2:] == tuple(-(-side // 4) for side in blocks)
    pixels = branch.reconstruct((stored.y_hat.double() / ONE).float(), shape)
    assert {band: image.shape[1:] for band, image in pixels.items()} == {b: g.shape[1:] for b, g in grids.items()}


def test_training_lowers_the_loss_and_changes_every_weight(pairs: list[PatchPair]) -> None:
    codec = Codec(
        dataclasses.replace(SMALL, s1_bands=("VV",), mean=(*SMALL.mean[:12], -12.0), std=(*SMALL.std[:12], 5.0))
    )
    batch = batch_of(pairs[:2])
    codec.initialise(batch)
    before = {name: p.detach().clone() for name, p in codec.named_parameters()}
    first, again = (sum(train(codec, batch, 8)) for _ in range(2))  # the same qualities and the same noise twice
    assert again < first
    still = [name for name, p in codec.named_parameters() if torch.equal(p, before[name])]
    assert not still


def test_noise_follows_the_generator(codec: Codec, pairs: list[PatchPair]) -> None:
    batch, quality = batch_of(pairs[:1]), torch.tensor([4.0])
    codec.train()
    try:
        one, two, other = (
            codec(batch, quality, "s1", torch.Generator().manual_seed(seed)).likelihoods["y"] for seed in (1, 1, 2)
        )
    finally:
        codec.eval()
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_rate_and_quality_rise_together(codec: Codec, optical: list[Raster]) -> None:
    sizes, scores = [], []
    for quality in (0, 2.5, 5, 7):
        coded = codec.compress(optical[:2], quality)
        sizes.append(sum(map(len, coded)))
        scores.append(psnr(optical[0], codec.decompress(coded)[0]))
    assert sizes == sorted(sizes)
    assert scores == sorted(scores)
    assert scores[-1] > scores[0] + 5
    assert codec.config.steps >= 8


def test_likelihoods_are_the_size_of_the_stream(codec: Codec, pairs: list[PatchPair]) -> None:
    out = codec(batch_of(pairs[:1]), torch.tensor([5.0]), "s2")
    bits = sum(float(-likelihood.detach().log2().sum()) for likelihood in out.likelihoods.values())
    stream = codec.compress([from_pair(pairs[0], ("s2",))], 5.0)[0]
    assert 8 * inspect(stream).payload_bytes == pytest.approx(bits, rel=0.03)


def test_codes_differ_between_patches(codec: Codec, optical: list[Raster]) -> None:
    codes = codec.hash_stream(codec.compress(optical, 6))
    assert len({code.tobytes() for code in codes}) > 1
    assert 0 < np.unpackbits(codes).mean() < 1


@pytest.mark.parametrize("bands", [("B02", "B03", "B04"), ("B8A",), ("B01", "B09"), ("VH",), ("B05", "VV")])
def test_any_bands(codec: Codec, both: list[Raster], bands: tuple[str, ...]) -> None:
    raster = Raster({band: both[0].bands[band] for band in bands}, both[0].shape)
    decoded = codec.decompress(codec.compress([raster], 5))[0]
    assert {b: p.shape for b, p in decoded.bands.items()} == {b: p.shape for b, p in raster.bands.items()}


def test_a_codec_for_three_bands(pairs: list[PatchPair]) -> None:
    config = SMALL.for_bands({"B02": (400.0, 600.0), "B11": (1500.0, 1000.0), "VV": (-12.0, 5.0)})
    codec = Codec(config)
    batch = batch_of(pairs[:4])
    codec.initialise(batch)
    codec.update()
    (whole,) = from_batch(batch_of(pairs[:1]))
    raster = Raster({b: whole.bands[b] for b in ("B02", "B11", "VV")}, whole.shape)
    decoded = codec.decompress(codec.compress([raster], 7))[0]
    assert psnr(raster, decoded) > 40
    with pytest.raises(UsageError, match="cannot code"):
        codec.compress([whole], 3)


@pytest.mark.parametrize("shape", [(120, 120), (7, 5), (1, 1), (121, 37), (64, 130)])
def test_any_shape(codec: Codec, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    sizes = {"B02": 1, "B05": 2, "B09": 6}
    bands = {b: rng.integers(300, 900, [-(-s // f) for s in shape]).astype(np.uint16) for b, f in sizes.items()}
    decoded = codec.decompress(codec.compress([Raster(bands, shape)], 4))[0]
    assert decoded.shape == shape
    assert {b: p.shape for b, p in decoded.bands.items()} == {b: p.shape for b, p in bands.items()}


def test_bright_reflectance_survives(codec: Codec, optical: list[Raster]) -> None:
    bright = {b: p.copy() for b, p in optical[0].bands.items()}
    bright["B02"][20:80, 20:80] = 17_000
    bright["B11"][10:40, 10:40] = 21_000
    decoded = codec.decompress(codec.compress([Raster(bright)], 6))[0]
    assert abs(float(np.median(decoded.bands["B02"][28:72, 28:72])) - 17_000) < 400
    assert abs(float(np.median(decoded.bands["B11"][14:36, 14:36])) - 21_000) < 400
    assert decoded.bands["B02"].dtype == np.uint16


def test_backscatter_stays_decibels(codec: Codec, both: list[Raster]) -> None:
    decoded = codec.decompress(codec.compress([both[0].only("s1")], 7))[0]
    assert decoded.bands["VV"].dtype == np.float32
    assert np.abs(decoded.bands["VV"] - both[0].bands["VV"]).mean() < 2
    assert decoded.bands["VH"].mean() == pytest.approx(both[0].bands["VH"].mean(), abs=0.5)


def test_targets_select_the_quality(codec: Codec, optical: list[Raster]) -> None:
    raster = optical[0]
    sizes = {q: bits_per_pixel(codec.compress([raster], q)[0], raster.shape) for q in (2.0, 2.0625)}
    fits = codec.compress([raster], target_bpp=sum(sizes.values()) / 2)[0]
    assert bits_per_pixel(fits, raster.shape) <= sum(sizes.values()) / 2
    assert inspect(fits).quality == 2.0
    wanted = psnr(raster, codec.decompress(codec.compress([raster], 3))[0])
    reached = codec.compress([raster], target_psnr=wanted)[0]
    assert inspect(reached).quality <= 3
    assert psnr(raster, codec.decompress([reached])[0]) >= wanted
    with pytest.raises(UsageError, match=r"lowest quality needs"):
        codec.compress([raster], target_bpp=0.001)
    with pytest.raises(UsageError, match=r"highest quality reaches"):
        codec.compress([raster], target_psnr=200)
    with pytest.raises(UsageError, match="exactly one"):
        codec.compress([raster], 3, target_bpp=1)
    with pytest.raises(UsageError, match="quality must be"):
        codec.compress([raster], 7.5)


def test_codes_of_all_rates_agree_mostly(codec: Codec, optical: list[Raster]) -> None:
    low, high = (codec.hash_stream(codec.compress(optical, q)) for q in (4, 7))
    assert np.unpackbits(low ^ high).mean() < 0.2


def test_without_update_nothing_is_coded(optical: list[Raster]) -> None:
    with pytest.raises(UsageError, match="call update"):
        Codec(SMALL).compress(optical[:1], 3)


def test_an_absent_sensor_is_refused(pairs: list[PatchPair]) -> None:
    codec = Codec(dataclasses.replace(SMALL, s1_bands=(), mean=SMALL.mean[:12], std=SMALL.std[:12]))
    with pytest.raises(UsageError, match="no bands of s1"):
        codec(batch_of(pairs[:1]), torch.tensor([1.0]), "s1")


@pytest.mark.parametrize(
    "change", [{"bits": 12}, {"steps": 4}, {"kernel": 4}, {"mean": (1.0,)}, {"lambda_min": 0.0}, {"s2_bands": ("B13",)}]
)
def test_settings_out_of_range_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        dataclasses.replace(CodecConfig.tiny(), **change)


def test_gdn_is_its_formula_and_igdn_its_inverse_form() -> None:
    torch.manual_seed(0)
    x, layer, inverse = torch.randn(2, 3, 4, 5), GDN(3), GDN(3, inverse=True)
    for one in (layer, inverse):
        torch.nn.init.uniform_(one.beta, 0.5, 1.5)
        torch.nn.init.uniform_(one.gamma, 0.1, 0.6)
    inverse.load_state_dict(layer.state_dict())
    beta, gamma = layer.beta.detach() ** 2 + 2.0**-18, layer.gamma.detach() ** 2
    norm = torch.zeros_like(x)
    for i in range(3):
        norm[:, i] = (beta[i] + sum(gamma[i, j] * x[:, j] ** 2 for j in range(3))).sqrt()
    assert torch.allclose(layer(x), x / norm, atol=1e-6)
    assert torch.allclose(inverse(x), x * norm, atol=1e-5)


def test_space_to_depth_keeps_every_pixel_and_the_sum_of_squares() -> None:
    space_to_depth = SpaceToDepth(("B02", "B05", "B09"), (10.0, 20.0, 30.0), 2.0)
    grids = {"B02": torch.rand(1, 120, 120), "B05": torch.rand(1, 60, 60), "B09": torch.rand(1, 20, 20)}
    packed = space_to_depth.pack(grids, (120, 120), 60)
    back = space_to_depth.unpack(packed, (120, 120))
    assert all(torch.allclose(back[b], p, atol=1e-5) for b, p in grids.items())
    energy = sum(float((((p - m) / 2) ** 2).sum()) for p, m in zip(grids.values(), (10, 20, 30), strict=True))
    assert float((packed**2).sum()) == pytest.approx(energy, rel=1e-5)


def test_the_first_transform_is_orthonormal() -> None:
    flat = low_frequencies(6, 4, 60).flatten(1)
    assert torch.allclose(flat @ flat.T, torch.eye(60), atol=1e-6)
