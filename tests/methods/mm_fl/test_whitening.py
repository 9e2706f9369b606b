"""Grouped whitening: its statistics, its gradient, where it goes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from eoforge.errors import UsageError
from eoforge.methods.mm_fl.whitening import GroupedWhitening, whiten
from eoforge.nn.backbones import build_backbone


def test_whitening_makes_every_groups_covariance_the_identity() -> None:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(8, 8, generator=generator)
    x = torch.einsum("cd,bdhw->bchw", mix, torch.randn(16, 8, 9, 9, generator=generator)) + 3
    layer = GroupedWhitening(8, epsilon=1e-6).train()
    y = layer(x)
    flat = y.transpose(0, 1).reshape(2, 4, -1)
    assert torch.allclose(flat.mean(dim=2), torch.zeros(2, 4), atol=1e-4)
    covariance = flat @ flat.transpose(1, 2) / flat.shape[2]
    assert torch.allclose(covariance, torch.eye(4).expand(2, 4, 4), atol=2e-3)
    # gamma and beta act per channel, as in batch norm
    with torch.no_grad():
        layer.weight.fill_(2.0)
        layer.bias.fill_(1.0)
    assert torch.allclose(layer(x), 2 * y + 1, atol=1e-4)


def test_whitening_is_cholesky_of_the_shrunk_covariance() -> None:
    x = (
        torch.randn(6, 4, 5, 5, generator=torch.Generator().manual_seed(2))
        * torch.tensor([1.0, 3, 0.5, 2])[:, None, None]
    )
    layer = GroupedWhitening(4).train()
    flat = x.transpose(0, 1).reshape(4, -1).double()
    away = flat - flat.mean(dim=1, keepdim=True)
    sigma = away @ away.T / away.shape[1]
    factor = torch.linalg.cholesky((1 - 1e-3) * sigma + 1e-3 * torch.eye(4))
    expected = torch.linalg.inv(factor) @ away
    assert torch.allclose(layer(x).transpose(0, 1).reshape(4, -1).double(), expected, atol=1e-4)
    assert torch.allclose(layer.running_covariance[0].double(), 0.9 * torch.eye(4) + 0.1 * sigma, atol=1e-5)
    assert torch.allclose(layer.running_centre.double(), 0.1 * flat.mean(dim=1), atol=1e-5)


def test_whitening_guards_a_batch_of_one_and_autocast() -> None:
    layer = GroupedWhitening(4).train()
    before = layer.running_covariance.clone()
    one = torch.randn(1, 4, 3, 3)
    assert torch.allclose(layer(one), one, atol=1e-3)  # by the running statistics, which start as the identity
    assert torch.equal(layer.running_covariance, before)
    batch = torch.randn(4, 4, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = layer.eval()(batch)
        assert layer(batch.bfloat16()).dtype == torch.bfloat16
    assert torch.equal(inside, layer(batch))  # float32 inside: bf16 would move it by a percent
    constant = torch.full((4, 4, 3, 3), 7.0)
    assert torch.isfinite(layer.train()(constant)).all()
    with pytest.raises(UsageError, match="a multiple of 4 channels; got 6"):
        GroupedWhitening(6)


def test_whitening_gradient_against_finite_differences() -> None:
    layer = GroupedWhitening(4).train()

    def forward(x: torch.Tensor) -> torch.Tensor:
        layer.running_centre.zero_()
        return layer(x)

    x = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(3), requires_grad=True)
    w = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(4))
    (gradient,) = torch.autograd.grad((forward(x) * w).sum(), x)
    step = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        slope = ((forward(x + 1e-2 * step) - forward(x - 1e-2 * step)) * w).sum() / 2e-2
    assert float((gradient * step).sum()) == pytest.approx(float(slope), rel=2e-2)


def test_where_whitening_goes() -> None:
    with torch.device("meta"):
        resnet, _ = build_backbone("resnet50", 2, 40, 8)
        whiten(resnet, "resnet50")
    places = [n for n, m in resnet.named_modules() if isinstance(m, GroupedWhitening)]
    # the stem, three in each of three blocks, and the shortcut of the first
    assert len(places) == 1 + 3 * 3 + 1
    assert all(n == "model.bn1" or n.startswith("model.layer1") for n in places)
    assert not any(n.startswith("model.layer1") for n, m in resnet.named_modules() if isinstance(m, nn.BatchNorm2d))
    tiny, _ = build_backbone("tiny_bn", 2, 20, 8)
    whiten(tiny, "tiny_bn")
    assert sum(isinstance(m, GroupedWhitening) for m in tiny.modules()) == 1
    with pytest.raises(UsageError, match="got poolformer"):
        whiten(tiny, "poolformer")
