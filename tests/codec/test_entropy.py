"""Tables, rANS, exact layers: integers equal on every machine."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from torch import nn

from eoforge.codec.entropy import MAX_VALUE, Decoder, Encoder, TableSet
from eoforge.codec.learned.exact import ACTIVATION_LIMIT, ONE, ExactConv, ExactHash, ExactHyperDecoder, rescale
from eoforge.codec.learned.priors import HashModule, HyperDecoder, bounded, gaussian_likelihood, scale_index
from eoforge.codec.tables import SCALES, SIGMA_MIN, SIGMA_RATIO, gaussian_frequencies, mixture_frequencies
from eoforge.errors import BundleError, DataRefused

LADDER = TableSet(gaussian_frequencies())


def sigma_of(index: int) -> float:
    """Standard deviation of table ``index``."""
    return float(SIGMA_MIN * SIGMA_RATIO**index)


def test_tables_are_gaussians() -> None:
    for index in range(0, SCALES, 7):
        table, sigma = gaussian_frequencies()[index], sigma_of(index)
        reach = len(table) // 2 - 1
        values = np.arange(-reach, reach + 1)
        mass = norm.cdf((values + 0.5) / sigma) - norm.cdf((values - 0.5) / sigma)
        np.testing.assert_allclose(table[:-1] / table.sum(), mass, atol=2e-4)
        assert table.sum() < 1 << 24


def test_tables_have_a_fixed_hash() -> None:
    """Streams outlive releases: a change of one frequency makes every older stream unreadable."""
    digest = hashlib.sha256()
    for table in (*gaussian_frequencies(), *mixture_frequencies()):
        digest.update(table.astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "bd79723bc295dd9f"


def test_a_stream_has_fixed_bytes() -> None:
    """As above, for the coder: constriction is pinned, and this says why."""
    coder = Encoder()
    coder.put(np.array([0, -3, 600, 7, 0]), LADDER, np.array([3, 40, 20, 40, 3]))
    coder.put_bits(np.array([5, 1023]), 10)
    assert coder.finish().hex() == "000000401a62686ebe25580304000000"


@given(st.lists(st.tuples(st.integers(-MAX_VALUE, MAX_VALUE) | st.integers(-20, 20), st.integers(0, SCALES - 1))))
def test_any_value_round_trips_by_any_table(symbols: list[tuple[int, int]]) -> None:
    values = np.array([value for value, _ in symbols], dtype=np.int64)
    indices = np.array([index for _, index in symbols], dtype=np.int64)
    coder = Encoder()
    coder.put(values, LADDER, indices)
    coder.put_bits(np.abs(values), 32)
    data = coder.finish()
    decoder = Decoder(data)
    np.testing.assert_array_equal(decoder.get(LADDER, indices), values)
    np.testing.assert_array_equal(decoder.get_bits(len(values), 32), np.abs(values))
    decoder.finish()


def test_symbols_cost_their_entropy() -> None:
    rng = np.random.default_rng(0)
    index = 35
    values = np.rint(rng.normal(0, sigma_of(index), 20_000)).astype(np.int64)
    coder = Encoder()
    coder.put(values, LADDER, np.full(len(values), index))
    entropy = np.log2(sigma_of(index) * np.sqrt(2 * np.pi * np.e))
    assert 8 * len(coder.finish()) / len(values) == pytest.approx(entropy, rel=0.01)


def test_left_over_bits_are_an_error() -> None:
    coder = Encoder()
    coder.put(np.arange(-50, 50), LADDER, np.full(100, 45))
    decoder = Decoder(coder.finish())
    decoder.get(LADDER, np.full(60, 45))
    with pytest.raises(DataRefused, match="bits are left"):
        decoder.finish()


@pytest.mark.parametrize("data", [b"abc", bytes(4), b"abcd" + bytes(4)])
def test_invalid_words_are_refused(data: bytes) -> None:
    with pytest.raises(DataRefused):
        Decoder(data)


def test_the_float_likelihood_is_the_table() -> None:
    index = torch.tensor([5.0, 20.0, 40.0])
    assert torch.allclose(
        scale_index(
            torch.tensor(
                [
                    sigma_of(5),
                    sigma_of(20),
                    sigma_of(40),
                ]
            )
        ),
        index,
        atol=1e-4,
    )
    for value in (0, 1, 4):
        for i, mass in zip((5, 20, 40), gaussian_likelihood(torch.full((3,), float(value)), index), strict=True):
            table = gaussian_frequencies()[i]
            reach = len(table) // 2 - 1
            expected = table[value + reach] / table.sum() if value <= reach else 0.0
            assert float(mass) == pytest.approx(expected, abs=3e-4)


def reference_mass(residual: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Mass of the interval in float64, from SciPy's tails."""
    sigma = float(SIGMA_MIN) * float(SIGMA_RATIO) ** index
    distance = np.abs(residual)
    return np.asarray(norm.sf((distance - 0.5) / sigma) - norm.sf((distance + 0.5) / sigma))


def grid() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Residuals, indices and masses from one down to the floor of likelihoods."""
    index, steps = np.meshgrid(np.linspace(0, SCALES - 1, 40), np.linspace(0, 6, 200))
    residual = (steps * float(SIGMA_MIN) * float(SIGMA_RATIO) ** index).astype(np.float32).astype(np.float64)
    index = index.astype(np.float32).astype(np.float64)
    mass = reference_mass(residual, index)
    kept = mass > 2e-9
    return residual[kept], index[kept], mass[kept]


def test_likelihoods_are_right_far_from_the_centre() -> None:
    residual, index, mass = grid()
    assert ((mass > 1e-8) & (mass < 1e-7)).sum() > 100, "the tail that float32 loses when it is one minus the rest"
    found = gaussian_likelihood(torch.from_numpy(residual).float(), torch.from_numpy(index).float()).numpy()
    np.testing.assert_allclose(np.log2(found), np.log2(mass), atol=2e-4)  # bits


def test_gradients_of_the_likelihood_are_right_far_from_the_centre() -> None:
    residual, index, mass = grid()
    gradients = []
    for dtype in (torch.float32, torch.float64):
        leaves = [torch.tensor(values, dtype=dtype, requires_grad=True) for values in (residual, index)]
        gaussian_likelihood(*leaves).log2().sum().backward()
        gradients.append([leaf.grad.double().numpy() for leaf in leaves if leaf.grad is not None])
    tail = mass < 1e-6
    for found, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(found[tail], expected[tail], rtol=2e-3)
    step = 1e-5
    numeric = np.log2(reference_mass(residual + step, index)) - np.log2(reference_mass(residual - step, index))
    np.testing.assert_allclose(gradients[1][0][tail], numeric[tail] / (2 * step), rtol=1e-4)


def test_a_value_outside_its_bounds_can_return() -> None:
    values = torch.tensor([-1.0, -1.0, 2.0, 9.0, 9.0], requires_grad=True)
    out = bounded(values, 0.0, 5.0)
    np.testing.assert_array_equal(out.detach(), [0, 0, 2, 5, 5])
    (out * torch.tensor([1.0, -1.0, 3.0, 1.0, -1.0])).sum().backward()
    assert values.grad is not None
    np.testing.assert_array_equal(values.grad, [0, -1, 3, 1, 0])


def test_an_unlikely_latent_still_teaches_its_scale() -> None:
    """A likelihood at its floor had no gradient, and a scale below the smallest table never grew again."""
    residual, index = torch.tensor([3.0, 0.7]), torch.tensor([8.0, -2.0], requires_grad=True)
    likelihood = gaussian_likelihood(residual, index)
    assert float(likelihood.detach()[0]) == pytest.approx(1e-9)
    (-likelihood.log2()).sum().backward()
    assert index.grad is not None
    assert (index.grad < 0).all(), "descent widens both"


def slow_conv(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, kernel: int) -> np.ndarray:
    """A convolution in Python integers."""
    pad = kernel // 2
    batch, channels, height, width = x.shape
    grown = np.zeros((batch, channels, height + 2 * pad, width + 2 * pad), dtype=object)
    grown[:, :, pad : pad + height, pad : pad + width] = x.astype(object)
    out = np.zeros((batch, len(weight), height, width), dtype=np.int64)
    for b, o, i, j in np.ndindex(out.shape):
        window = grown[b, :, i : i + kernel, j : j + kernel].ravel()
        total = sum(int(w) * int(v) for w, v in zip(weight[o], window, strict=True)) + int(bias[o])
        out[b, o, i, j] = (total + ONE // 2) >> 12
    return out


def test_exact_layers_are_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = nn.Conv2d(3, 4, 3, padding=1)
    exact = ExactConv(3, 4, 3)
    exact.copy(layer)
    x = torch.randint(-ACTIVATION_LIMIT, ACTIVATION_LIMIT, (2, 3, 4, 5), generator=generator)
    expected = slow_conv(x.numpy(), exact.weight.numpy(), exact.bias.numpy(), 3)
    np.testing.assert_array_equal(exact(x).numpy(), expected)


def test_exact_layers_approximate_float_layers() -> None:
    torch.manual_seed(0)
    decoder, twin = HyperDecoder(6, 5), ExactHyperDecoder(6, 5)
    nn.init.normal_(decoder.last.weight, std=0.1)
    for name in ("first", "second", "last"):
        getattr(twin, name).copy(getattr(decoder, name))
    z = torch.randint(-20, 20, (2, 6, 2, 3))
    for exact, floating in zip(twin(z), decoder(z.float()), strict=True):
        assert torch.allclose(exact / ONE, floating, atol=0.01)
    module, hashed = HashModule(5, 7, 16), ExactHash(5, 7, 16)
    for name in ("conv", "inner", "outer"):
        getattr(hashed, name).copy(getattr(module, name))
    y = torch.randn(3, 5, 8, 8)
    assert torch.allclose(hashed((y * ONE).long()) / ONE, module(y), atol=0.01)


def test_weights_too_large_to_be_exact_are_refused() -> None:
    layer = nn.Conv2d(64, 2, 3)
    nn.init.constant_(layer.weight, 3_000.0)
    with pytest.raises(BundleError, match="exact"):
        ExactConv(64, 2, 3).copy(layer)
    nn.init.constant_(layer.weight, float("nan"))
    with pytest.raises(DataRefused, match="diverged"):
        ExactConv(64, 2, 3).copy(layer)


def test_rescale_rounds_half_up() -> None:
    assert rescale(torch.tensor([-6, -5, 5, 6, 8]), 2).tolist() == [-1, -1, 1, 2, 2]


def test_a_value_far_from_its_mean_costs_its_bits() -> None:
    """A floor above the mass of a rare value hides from training what it costs: 13 bits at 1e-4."""
    sigma = 2.0
    index = scale_index(torch.tensor([sigma]))
    for distance, most in ((10.0, 1e-6), (14.0, 1e-8)):
        mass = 0.5 * (math.erfc((distance - 0.5) / sigma / 2**0.5) - math.erfc((distance + 0.5) / sigma / 2**0.5))
        assert mass < most
        assert float(gaussian_likelihood(torch.tensor([distance]), index)) <= most
