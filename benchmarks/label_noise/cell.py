"""One cell: train one objective on one noisy training split, and measure it on clean labels.

All objectives have the same network, optimiser, schedule and number of steps; nothing is chosen on clean labels. The
last epoch is measured, as GRID's released code does.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc, multiclass_accuracy, multiclass_f1_score

from benchmarks.label_noise.samples import Samples
from eoforge.data.noise.scene import Noise, inject, realised
from eoforge.losses.robust import task_loss
from eoforge.methods.noise_robust.generative import Grid, RsIrlSvae
from eoforge.methods.noise_robust.objective import Objective, View
from eoforge.methods.noise_robust.settings import NoiseSettings, build_objective
from eoforge.metrics.multilabel import multilabel_figures
from eoforge.metrics.retrieval import ndcg
from eoforge.nn.backbones import build_backbone
from eoforge.nn.build import seeded
from eoforge.nn.seeds import derive_seed

NDCG_AT = 20


@dataclass(frozen=True)
class Training:
    """Settings that all cells share."""

    epochs: int = 40
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    width: int = 16
    backbone: str = "tiny_bn"


class Net(nn.Module):
    """Backbone and task head."""

    def __init__(self, samples: Samples, training: Training) -> None:
        super().__init__()
        channels, side = samples.images.shape[1], samples.images.shape[-1]
        self.backbone, self.features = build_backbone(training.backbone, channels, side, training.width)
        self.head = nn.Linear(self.features, samples.labels.shape[1])

    def view(self, images: Tensor) -> View:
        """What an objective sees."""
        return View(self.backbone(images), self.head)


def run(
    samples: Samples, name: str, noise: Noise, seed: int, settings: NoiseSettings, training: Training
) -> dict[str, Any]:
    """Figures of one cell.

    Args:
        samples: Data set with clean labels.
        name: Objective.
        noise: Injected into the training split.
        seed: Of weights and batches.
        settings: Of the objective.
        training: Settings that all cells share.
    """
    rows = samples.rows("train")
    clean = samples.labels[rows]
    noisy = inject(clean, noise)
    began = time.process_time()
    nets, objective = fit(samples, rows, noisy, name, seed, settings, training)
    seconds = time.process_time() - began
    net = nets[0].eval()
    figures = measure(samples, net)
    wrong = (clean != noisy).any(axis=1)
    return {
        "objective": name,
        "noise": asdict(noise),
        "seed": seed,
        "cpu_seconds": seconds,
        "realised": asdict(realised(clean, noisy)),
        "test": {**figures, **detection(samples, rows, noisy, wrong, net, objective, settings.rate)},
    }


def fit(
    samples: Samples,
    rows: np.ndarray,
    labels: np.ndarray,
    name: str,
    seed: int,
    settings: NoiseSettings,
    training: Training,
) -> tuple[list[Net], Objective]:
    """The trained networks and their objective."""
    first = seeded(lambda: Net(samples, training), seed)
    objective = seeded(
        lambda: build_objective(
            name,
            settings,
            samples.target,
            features=first.features,
            outputs=labels.shape[1],
            samples=len(rows),
        ),
        seed,
    )
    others = [
        seeded(lambda n=n: Net(samples, training), derive_seed("second", seed, n)) for n in range(1, objective.networks)
    ]
    nets = [first, *others]
    parameters = [p for part in (*nets, objective) for p in part.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=training.weight_decay)
    steps = len(rows) // training.batch_size
    images, targets = samples.images[torch.from_numpy(rows)], samples.targets(labels)
    for epoch in range(training.epochs):
        generator = torch.Generator().manual_seed(derive_seed("order", seed, epoch))
        order = torch.randperm(len(rows), generator=generator)
        torch.manual_seed(derive_seed("epoch", seed, epoch))
        for step in range(steps):
            done = (epoch + step / steps) / training.epochs
            for group in optimiser.param_groups:
                group["lr"] = training.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
            batch = order[step * training.batch_size : (step + 1) * training.batch_size]
            mirrored = images[batch].flip(-1) if (epoch + step) % 2 else images[batch]
            terms = objective([net.view(mirrored) for net in nets], targets[batch], batch, epoch)
            optimiser.zero_grad(set_to_none=True)
            terms["loss"].backward()
            optimiser.step()
    return nets, objective


@torch.no_grad()
def measure(samples: Samples, net: Net) -> dict[str, float]:
    """mAP and F1 of the head on the test split, and NDCG of features: clean training patches ask, the test answers."""
    test, train = samples.rows("test"), samples.rows("train")
    features = {
        name: net.backbone(samples.images[torch.from_numpy(rows)]) for name, rows in (("test", test), ("train", train))
    }
    logits = net.head(features["test"])
    truth = samples.targets(samples.labels[test])
    if samples.target == "multi":
        figures = multilabel_figures(logits.sigmoid(), truth)
        chosen = {"map_macro": figures["map_macro"], "f1_micro": figures["f1_micro"], "f1_macro": figures["f1_macro"]}
    else:
        classes = logits.shape[1]
        hot = torch.from_numpy(samples.labels[test].astype(np.float32))
        chosen = {
            "map_macro": multilabel_figures(logits.softmax(dim=1), hot)["map_macro"],
            "f1_micro": float(multiclass_accuracy(logits, truth, classes, average="micro")),
            "f1_macro": float(multiclass_f1_score(logits, truth, classes, average="macro")),
        }
    masks = {name: _masks(samples.labels[rows]) for name, rows in (("test", test), ("train", train))}
    asking = np.arange(0, len(train), max(1, len(train) // 300))
    near = (
        chi_square(features["train"][torch.from_numpy(asking)], features["test"]).topk(NDCG_AT, largest=False).indices
    )
    return {**chosen, f"ndcg@{NDCG_AT}": ndcg(masks["train"][asking], masks["test"][near.numpy()], masks["test"])}


def chi_square(first_QD: Tensor, second_ND: Tensor) -> Tensor:
    """Distances ``1/2 sum (u - v)^2 / (u + v)`` ``[Q, N]`` of features (*confirmed*: GRID's released code).

    Features below 0, which a backbone without a final ReLU has, count as 0.
    """
    first, second = first_QD.clamp(min=0)[:, None], second_ND.clamp(min=0)[None]
    return 0.5 * ((first - second).square() / (first + second + 1e-10)).sum(dim=2)


def _masks(labels_NL: np.ndarray) -> np.ndarray:
    return (labels_NL.astype(np.uint32) << np.arange(labels_NL.shape[1], dtype=np.uint32)).sum(axis=1, dtype=np.uint32)


@torch.no_grad()
def detection(
    samples: Samples,
    rows: np.ndarray,
    noisy: np.ndarray,
    wrong: np.ndarray,
    net: Net,
    objective: Objective,
    rate: float,
) -> dict[str, float]:
    """How well wrong samples of the training split are found: AUROC, and precision among the ``rate`` most suspicious.

    Suspicion is what the method itself uses: the gap of the two losses for GRID and RS-IRL-SVAE (of the last epoch),
    the loss of the head for all others.
    """
    if not wrong.any() or wrong.all():
        return {}
    if isinstance(objective, (Grid, RsIrlSvae)):
        suspicion = objective.gaps.values.nan_to_num(-2.0)
    else:
        logits = net.head(net.backbone(samples.images[torch.from_numpy(rows)]))
        suspicion = task_loss(samples.target, logits, samples.targets(noisy))
    truth = torch.from_numpy(wrong)
    found = suspicion.topk(max(1, int(rate * len(rows)))).indices
    # torchmetrics takes scores in 0..1 as probabilities and squashes others; ranks are neither.
    ranks = suspicion.argsort().argsort().float() / len(rows)
    return {
        "detection_auroc": float(binary_auroc(ranks, truth.int())),
        "detection_precision": float(truth[found].float().mean()),
        "chance": float(truth.float().mean()),
    }
