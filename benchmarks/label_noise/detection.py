"""How well the wrong labels of a training split are found.

Shape legend: N samples, L classes. Suspicion is what a method itself compares: the gap or the sum of the two losses for
GRID and RS-IRL-SVAE (in the last epoch), and the loss of the head after the last epoch for all others.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from benchmarks.label_noise.samples import Samples
from eoforge.losses.robust import label_losses, task_loss


def figures(
    samples: Samples, clean: np.ndarray, noisy: np.ndarray, suspicion: Tensor, rate: float
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """AUROC over all samples, precision among the ``rate`` most suspicious, and the same for the labels of each class.

    Args:
        samples: Data set.
        clean: Bool ``[N, L]``, the truth.
        noisy: Bool ``[N, L]``, what training read.
        suspicion: ``[N]`` of samples, or ``[N, L]`` of labels; a sample is as suspicious as the worst of its labels.
        rate: Share of the samples, or of the given labels of a class.

    Returns:
        Figures over all, and by name of a class. Both are empty without wrong labels.
    """
    wrong = clean != noisy
    if not wrong.any() or wrong.any(axis=1).all():
        return {}, {}
    by_sample = suspicion if suspicion.dim() == 1 else suspicion.max(dim=1).values
    total = {f"detection_{name}": value for name, value in _of(by_sample, wrong.any(axis=1), rate).items()}
    classes = {}
    for i, name in enumerate(samples.classes):
        rows = noisy[:, i]  # the given labels of the class: an absent one is a suspicion against another class
        if wrong[rows, i].any() and not wrong[rows, i].all():
            chosen = suspicion[torch.from_numpy(rows)]
            classes[name] = _of(chosen if suspicion.dim() == 1 else chosen[:, i], wrong[rows, i], rate)
    if classes:
        for name in ("auroc", "precision", "chance"):
            total[f"label_{name}"] = float(np.mean([one[name] for one in classes.values()]))
    return total, classes


def losses_of(samples: Samples, logits: Tensor, noisy: np.ndarray) -> Tensor:
    """Losses of a head against the training labels: ``[N, L]`` of scenes, ``[N]`` of samples, ``[N, S, S]`` of maps."""
    labels = samples.targets(noisy)
    return (task_loss if samples.target == "single" else label_losses)(samples.target, logits, labels)


def _of(suspicion: Tensor, wrong: np.ndarray, rate: float) -> dict[str, float]:
    truth = torch.from_numpy(wrong)
    found = suspicion.topk(max(1, int(rate * len(suspicion)))).indices
    # torchmetrics takes scores in 0..1 as probabilities and squashes others; ranks are neither.
    ranks = suspicion.argsort().argsort().float() / len(suspicion)
    return {
        "auroc": float(binary_auroc(ranks, truth.int())),
        "precision": float(truth[found].float().mean()),
        "chance": float(truth.float().mean()),
    }
