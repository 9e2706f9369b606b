"""The archives of the benchmark as features of one frozen encoder: synthetic patches, and EuroSAT's RGB tiles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.label_noise.samples import SIDE, Samples, eurosat, synthetic
from eoforge.losses.contrastive import nt_xent
from eoforge.methods.anneal.features import Patches
from eoforge.nn.backbones import build_backbone
from eoforge.nn.build import seeded
from eoforge.nn.heads import ProjectionHead
from eoforge.nn.seeds import derive_seed

WIDTH, BATCH, TEMPERATURE, RATE = 16, 128, 0.2, 2e-3
ENCODER_SEED = 0


@dataclass(frozen=True)
class Archive:
    """Features and labels.

    Attributes:
        pool: Training split, from which pairs are made and which is searched.
        queries: Test split.
        choices: Number of decisions of one class label: 1 for one choice among the classes, their number for any set.
        bits: Bits of one class label.
    """

    pool: Patches
    queries: Patches
    choices: int
    bits: float


def load(data: str, patches: int, folder: Path | None, epochs: int, cache: Path) -> Archive:
    """The archive ``synthetic`` or ``eurosat``, from its file in ``cache`` or computed.

    Args:
        data: Its name.
        patches: Size of the synthetic archive.
        folder: Folder of the EuroSAT tiles.
        epochs: Epochs of self-supervised training of the encoder; 0 keeps random weights.
        cache: Folder of the cells.
    """
    path = cache / f"{data}-{patches}-{epochs}.pt"
    if not path.exists():
        _write(path, _made(data, patches, folder, epochs))
    pool, queries, classes, single = _read(path)
    return Archive(pool, queries, 1 if single else classes, float(np.log2(classes) if single else classes))


def _made(data: str, patches: int, folder: Path | None, epochs: int) -> tuple[Patches, Patches, int, bool]:
    if data == "synthetic":
        samples = synthetic(patches)
    else:
        assert folder is not None
        samples = eurosat(folder)
    features = encode(samples, epochs)
    classes = samples.labels.shape[1]
    masks = (samples.labels.astype(np.uint32) << np.arange(classes, dtype=np.uint32)).sum(axis=1, dtype=np.uint32)

    def part(split: str) -> Patches:
        rows = samples.rows(split)
        names = tuple(f"{split}-{row}" for row in rows)
        return Patches(names, features[torch.from_numpy(rows)], masks[rows])

    return part("train"), part("test"), classes, samples.target == "single"


def _read(path: Path) -> tuple[Patches, Patches, int, bool]:
    held = torch.load(path, weights_only=True)
    parts = [Patches(tuple(names), features, masks.numpy()) for names, features, masks in held["parts"]]
    return parts[0], parts[1], held["classes"], held["single"]


def _write(path: Path, made: tuple[Patches, Patches, int, bool]) -> None:
    parts = [(list(p.names), p.features, torch.from_numpy(p.masks)) for p in made[:2]]
    partial = path.with_suffix(".partial")
    torch.save({"parts": parts, "classes": made[2], "single": made[3]}, partial)
    partial.replace(path)


def encode(samples: Samples, epochs: int) -> Tensor:
    """Features ``[N, F]`` of an encoder that was trained without labels on two views of each training image."""
    channels = samples.images.shape[1]
    encoder = seeded(lambda: build_backbone("tiny", channels, SIDE, WIDTH)[0], ENCODER_SEED)
    width = encoder(samples.images[:1]).shape[1]
    head = seeded(lambda: ProjectionHead(width, 64), ENCODER_SEED)
    images = samples.images[torch.from_numpy(samples.rows("train"))]
    optimiser = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=RATE, weight_decay=1e-4)
    for epoch in range(epochs):
        draw = torch.Generator().manual_seed(derive_seed("views", ENCODER_SEED, epoch))
        for rows in torch.randperm(len(images), generator=draw).split(BATCH):
            if len(rows) < 2:
                continue
            one, other = (head(encoder(view(images[rows], draw))) for _ in range(2))
            loss = nt_xent(one, other, TEMPERATURE)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.inference_mode():
        return torch.cat([encoder.eval()(part) for part in samples.images.split(512)])


def view(images_BCSS: Tensor, draw: torch.Generator) -> Tensor:
    """A random view: a crop of two thirds at a random place, mirrored at random, with a change of each band's gain."""
    side = images_BCSS.shape[-1]
    crop = 2 * side // 3
    top, left = (int(torch.randint(side - crop + 1, (1,), generator=draw)) for _ in range(2))
    part = images_BCSS[..., top : top + crop, left : left + crop]
    flips = torch.rand(2, generator=draw)
    part = part.flip(-1) if flips[0] < 0.5 else part
    part = part.flip(-2) if flips[1] < 0.5 else part
    gain = 1 + 0.1 * torch.randn(len(part), part.shape[1], 1, 1, generator=draw)
    return part * gain
