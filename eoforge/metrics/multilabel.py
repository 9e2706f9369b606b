"""Figures of multi-label classification: F1 and mean average precision, micro, macro and weighted (torchmetrics)."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from eoforge.errors import UsageError

THRESHOLD = 0.5


def multilabel_figures(probabilities_NL: Tensor, labels_NL: Tensor) -> dict[str, float]:
    """F1 at 0.5 and average precision.

    Args:
        probabilities_NL: In 0..1, ``[N, L]``.
        labels_NL: 0 or 1, ``[N, L]``.

    Returns:
        ``f1_micro``, ``f1_macro``, ``f1_weighted``, ``map_micro``, ``map_macro``. F1 takes the macro mean over all L
        labels, as sklearn does (a label that is neither present nor predicted counts 0); average precision over the
        labels that are present, since without a positive it is not defined.

    Raises:
        UsageError: There are no rows, or the shapes differ.
    """
    from torchmetrics.functional.classification import multilabel_average_precision, multilabel_f1_score

    if probabilities_NL.shape != labels_NL.shape or not len(labels_NL):
        raise UsageError(
            f"expected probabilities and labels of one shape [N > 0, L]; got {list(probabilities_NL.shape)} and "
            f"{list(labels_NL.shape)}"
        )
    labels = labels_NL.long()
    count = labels.shape[1]
    figures = {
        f"f1_{average}": multilabel_f1_score(probabilities_NL, labels, count, THRESHOLD, average=average)
        for average in ("micro", "macro", "weighted")
    }
    present = labels.any(dim=0)
    if not bool(present.any()):
        raise UsageError("no patch has a label; average precision is not defined")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "no positive samples" of labels that are left out below
        precision_L = multilabel_average_precision(probabilities_NL, labels, count, average="none")
        figures["map_micro"] = multilabel_average_precision(probabilities_NL, labels, count, average="micro")
    assert isinstance(precision_L, torch.Tensor)
    figures["map_macro"] = precision_L[present].mean()
    return {name: float(value) for name, value in figures.items()}
