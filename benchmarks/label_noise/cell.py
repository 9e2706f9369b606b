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
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

from benchmarks.label_noise import detection
from benchmarks.label_noise.noise import Shift, corrupted, one_hot
from benchmarks.label_noise.samples import Samples
from eoforge.data.noise.scene import Noise, realised
from eoforge.methods.noise_robust.generative import Grid, RsIrlSvae
from eoforge.methods.noise_robust.objective import Objective, View
from eoforge.methods.noise_robust.selection import loss_gap, loss_sum
from eoforge.methods.noise_robust.settings import NoiseSettings, build_objective
from eoforge.metrics.multilabel import multilabel_figures
from eoforge.metrics.pixels import confusion, pixel_measures
from eoforge.metrics.retrieval import ndcg
from eoforge.nn.build import seeded
from eoforge.nn.seeds import derive_seed

NDCG_AT = 20


@dataclass(frozen=True)
class Training:
    """Settings that all cells share."""

    epochs: int = 40
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    width: int = 64


class Net(nn.Module):
    """Backbone and task head."""

    def __init__(self, samples: Samples, training: Training) -> None:
        super().__init__()
        inputs, classes, width = samples.images.shape[1], samples.labels.shape[1], training.width
        self.features = width
        self.backbone: nn.Module
        self.head: nn.Module
        if samples.target == "pixels":
            self.backbone, self.head = _same_size(inputs, width // 2, width), nn.Conv2d(width, classes, 1)
        else:
            self.backbone, self.head = _perceptron(inputs, 2 * width, width), nn.Linear(width, classes)

    def view(self, images: Tensor) -> View:
        """What an objective sees."""
        return View(self.backbone(images), self.head)


def _perceptron(inputs: int, *widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers)


def _same_size(channels: int, *widths: int) -> nn.Sequential:
    """Convolutions that keep the size of a map."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers)


def run(
    samples: Samples, name: str, noise: Noise | Shift, seed: int, settings: NoiseSettings, training: Training
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
    noisy = corrupted(samples, rows, noise)
    began = time.process_time()
    nets, objective = fit(samples, rows, noisy, name, seed, settings, training)
    seconds = time.process_time() - began
    net = nets[0].eval()
    suspicion = suspicions(samples, rows, noisy, net, objective)
    return {"objective": name, **outcome(samples, rows, noisy, net, noise, seed, seconds, suspicion, settings.rate)}


def outcome(
    samples: Samples,
    rows: np.ndarray,
    noisy: np.ndarray,
    net: Net,
    noise: Noise | Shift,
    seed: int,
    seconds: float,
    suspicion: Tensor,
    rate: float,
) -> dict[str, Any]:
    """Figures of a trained network and of the suspicion against its training labels."""
    truth, given, known = one_hot(samples, samples.truth(rows), noisy)
    if samples.maps is not None:
        suspicion = suspicion.flatten()[torch.from_numpy(known)]
    found, classes = detection.figures(samples, truth, given, suspicion, rate)
    return {
        "noise": asdict(noise),
        "seed": seed,
        "cpu_seconds": seconds,
        "realised": asdict(realised(truth, given)),
        "test": {**(measure if samples.maps is None else measure_maps)(samples, net), **found},
        "classes": classes,
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
            outputs=samples.labels.shape[1],
            samples=len(rows),
            non_negative=True,
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
            inputs, truth = images[batch], targets[batch]
            if samples.maps is not None and (epoch + step) % 2:
                inputs, truth = inputs.flip(-1), truth.flip(-1)
            terms = objective([net.view(inputs) for net in nets], truth, batch, epoch)
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
def measure_maps(samples: Samples, net: Net) -> dict[str, float]:
    """Accuracy of pixels and mean intersection over union on the test split."""
    rows = samples.rows("test")
    predicted = net.head(net.backbone(samples.images[torch.from_numpy(rows)])).argmax(dim=1)
    figures = pixel_measures(confusion(predicted, samples.targets(samples.truth(rows)), len(samples.classes))).averages
    return {"accuracy": figures["accuracy"], "iou_macro": figures["iou_macro"]}


@torch.no_grad()
def suspicions(samples: Samples, rows: np.ndarray, noisy: np.ndarray, net: Net, objective: Objective) -> Tensor:
    """How suspicious each training sample ``[N]``, each of its labels ``[N, L]`` or pixels ``[N, S, S]`` is."""
    with_branch = isinstance(objective, (Grid, RsIrlSvae))
    if with_branch and samples.maps is None:
        return objective.suspicion.values.nan_to_num(-2.0)
    features = net.backbone(samples.images[torch.from_numpy(rows)])
    losses = detection.losses_of(samples, net.head(features), noisy)
    if not with_branch:
        return losses
    # The memory holds a mean per map: the pixels of a map are judged once more, by the last weights.
    other = detection.losses_of(samples, objective.branch.classify(objective.branch.encode(features).mean), noisy)
    return (loss_sum if objective.joint else loss_gap)(losses.flatten(), other.flatten()).view_as(losses)
