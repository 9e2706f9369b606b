"""Fixtures: one small codec, trained for five steps, with integer tables; synthetic patches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from eoforge.codec.learned.config import CodecConfig
from eoforge.codec.learned.model import Codec
from eoforge.codec.raster import Raster, from_pair
from eoforge.data.bands import GROUPS
from eoforge.data.loading.batch import PatchBatch
from eoforge.data.records import PatchPair
from eoforge.data.synthetic.archive import synthetic_pairs

SMALL = CodecConfig(channels=12, latent=40, hyper=12, kernel=3, bits=32, hash_hidden=24)
BUNDLE = "0123456789abcdef" * 4


def batch_of(pairs: Sequence[PatchPair]) -> PatchBatch:
    """Pairs as the loader would give them."""
    columns = {g.column: torch.from_numpy(np.stack([getattr(p, g.column) for p in pairs])) for g in GROUPS}
    labels = torch.zeros(len(pairs), dtype=torch.int64)
    return PatchBatch([p.meta.patch_id for p in pairs], label_mask=labels, **columns)


def train(codec: Codec, batch: PatchBatch, steps: int) -> list[float]:
    """A few steps on random qualities; the losses."""
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(codec.parameters(), 3e-4)
    losses = []
    codec.train()
    for _ in range(steps):
        total = torch.zeros(())
        for modality in codec.config.bands:
            quality = torch.rand(len(batch), generator=generator) * (codec.config.steps - 1)
            out = codec(batch, quality, modality, generator)
            bits = sum(-likelihood.log2().sum((1, 2, 3)) for likelihood in out.likelihoods.values()) / 120**2
            errors = [
                (x - g.float()).square()
                for x, g in zip(out.x_hat.values(), codec.grids(batch, modality).values(), strict=True)
            ]
            mse = sum(e.sum((1, 2)) for e in errors) / sum(e[0].numel() for e in errors)
            weight = torch.tensor([codec.config.lambda_of(float(q)) for q in quality])
            total = total + (bits + weight * mse / codec.branch(modality).space_to_depth.scale ** 2).mean()
            # Codes must depend on the patch: bits that follow random targets do.
            target = torch.randint(0, 2, out.logits.shape, generator=torch.Generator().manual_seed(7)).float()
            total = total + torch.nn.functional.binary_cross_entropy_with_logits(out.logits, target)
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        losses.append(float(total.detach()))
    return losses


@pytest.fixture(scope="session")
def pairs() -> list[PatchPair]:
    """Sixteen synthetic patch pairs."""
    return list(synthetic_pairs(16, seed=1))


@pytest.fixture(scope="session")
def codec(pairs: list[PatchPair]) -> Codec:
    """A codec of both sensors with integer tables."""
    codec = Codec(SMALL)
    batch = batch_of(pairs)
    codec.initialise(batch)
    train(codec, batch_of(pairs[:1]), 5)
    codec.update()
    codec.bundle_id = BUNDLE
    return codec.eval()


@pytest.fixture(scope="session")
def optical(pairs: list[PatchPair]) -> list[Raster]:
    """The optical bands of eight patches."""
    return [from_pair(pair, ("s2",)) for pair in pairs[:8]]


@pytest.fixture(scope="session")
def both(pairs: list[PatchPair]) -> list[Raster]:
    """All bands of four patches."""
    return [from_pair(pair) for pair in pairs[8:12]]
