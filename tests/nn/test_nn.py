"""Backbones, seeds and the place of a process among its peers."""

from __future__ import annotations

import pytest
import torch

from eoforge.errors import UsageError
from eoforge.nn.backbones import build_backbone
from eoforge.nn.distributed import World, gather_rows
from eoforge.nn.heads import ProjectionHead
from eoforge.nn.seeds import derive_seed


@pytest.mark.parametrize(
    ("name", "size", "channels"),
    [
        ("tiny", 120, 2),
        ("tiny", 40, 10),
        ("tiny_bn", 40, 3),
        ("resnet50", 32, 10),
        ("mlp_mixer", 16, 2),
        ("vit_small", 30, 2),
        ("vit_small_patch15", 30, 2),
    ],
)
def test_backbones_take_any_number_of_bands(name: str, size: int, channels: int) -> None:
    torch.manual_seed(0)
    backbone, width = build_backbone(name, channels, size, width=8)
    features = backbone(torch.randn(2, channels, size, size))
    assert features.shape == (2, width)
    features.square().mean().backward()
    gradients = [p.grad for p in backbone.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)


def test_tiny_backbone_sees_every_band_and_keeps_patches_apart() -> None:
    torch.manual_seed(0)
    backbone, _ = build_backbone("tiny", 3, 40, width=8)
    images = torch.randn(4, 3, 40, 40)
    features = backbone(images)
    for band in range(3):
        changed = images.clone()
        changed[0, band] += 1
        after = backbone(changed)
        assert not torch.allclose(after[0], features[0])
        assert torch.allclose(after[1:], features[1:])


def test_constant_images_have_finite_gradients() -> None:
    images = torch.zeros(2, 3, 40, 40, requires_grad=True)
    build_backbone("tiny", 3, 40, width=8)[0](images).sum().backward()
    assert torch.isfinite(images.grad).all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("vgg", 3, 120), "one of"),
        (("tiny", 3, 120, 12), "multiple of 8"),
        (("vit_small_patch15", 3, 100), "of 15"),
        (("mlp_mixer", 3, 100), "of 8 pixels"),
    ],
)
def test_unfit_backbones_are_refused(arguments: tuple[object, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        build_backbone(*arguments)


def test_names_of_weights_are_those_of_stored_bundles() -> None:
    with torch.device("meta"):
        prefixed = {name: build_backbone(name, 2, 120)[0] for name in ("resnet50", "vit_small", "vit_small_patch15")}
        plain = {name: build_backbone(name, 2, 120)[0] for name in ("mlp_mixer", "convmixer", "poolformer")}
    assert all(name.startswith("model.") for network in prefixed.values() for name in network.state_dict())
    assert {name.split(".")[0] for network in plain.values() for name in network.state_dict()} == {
        "blocks", "head", "norm", "stages", "stem"
    }  # fmt: skip
    assert list(prefixed["vit_small"].state_dict()) == list(prefixed["vit_small_patch15"].state_dict())


def test_projection_head() -> None:
    assert ProjectionHead(6, 4)(torch.zeros(2, 6)).shape == (2, 4)


def test_seeds_tell_what_they_are_for_apart() -> None:
    seeds = [derive_seed(*parts) for parts in ((1, 2), (2, 1), (12,), ("1", 2), ("a", "b"), ("ab",), (1, 2, 0))]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= s < 2**63 for s in seeds)
    assert derive_seed("flip", 0, 3, "patch") == derive_seed("flip", 0, 3, "patch")


def test_world_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert World.from_env() == World(0, 1, 0, 1)
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert World.from_env() == World(5, 8, 1, 4)
    assert World.from_env().nodes == 2
    monkeypatch.setenv("RANK", "8")
    with pytest.raises(UsageError, match="torchrun"):
        World.from_env()


def test_gather_is_the_identity_in_one_process() -> None:
    rows = torch.randn(3, 2)
    assert gather_rows(rows) is rows
