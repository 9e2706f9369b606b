"""Seeded label noise for multi-label scenes, with the exact ground truth.

Shape legend: N patches, L classes. Labels are bool ``[N, L]``. Every injector is a function of the clean labels and a
random generator; it never leaves a patch without a label that had one.

Rules (*confirmed*: read in released code; *ours*: defined here):

================  =====================================================================================================
``class_change``  floor(rate x positives) positives drawn without replacement, each becomes another class (GRID,
                  *confirmed*); the other class is one that the patch does not have, so each is one removal and one
                  addition (*ours*; the released injector reads a stale loop index and so misses its rate).
``mixed_flip``    In floor(images x N) patches, floor(rate x L) random classes are flipped (RCML, *confirmed*).
``subtractive``   floor(rate x positives) positives are removed (terms of arXiv 2601.08446).
``additive``      floor(rate x positives) absent classes are added.
``mixed``         Half of each.
``pairwise``      As ``class_change``; the new class is drawn from the row of a transition matrix.
``instance``      As ``class_change``; positives are drawn by how little, and new classes by how much, a classifier
                  believes in them.
================  =====================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from eoforge.data.labels import CLASSES, CLC_TO_CLASS
from eoforge.errors import UsageError
from eoforge.nn.seeds import derive_seed

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

CLASS_CHANGE, MIXED_FLIP, SUBTRACTIVE, ADDITIVE, MIXED = (
    "class_change",
    "mixed_flip",
    "subtractive",
    "additive",
    "mixed",
)
PAIRWISE, INSTANCE = "pairwise", "instance"
KINDS = (CLASS_CHANGE, MIXED_FLIP, SUBTRACTIVE, ADDITIVE, MIXED, PAIRWISE, INSTANCE)


@dataclass(frozen=True)
class Noise:
    """Choice of an injector.

    Attributes:
        kind: One of ``KINDS``.
        rate: Share of the positives that is changed, in 0..1; for ``mixed_flip`` the share of classes per chosen patch.
        seed: Seed of all draws.
        images: Share of the patches that ``mixed_flip`` touches, in 0..1.
    """

    kind: str
    rate: float
    seed: int = 0
    images: float = 0.4

    def __post_init__(self) -> None:
        """Checks of ranges.

        Raises:
            UsageError: The kind is unknown, or a share is outside 0..1.
        """
        if self.kind not in KINDS:
            raise UsageError(f"noise kind must be one of {', '.join(KINDS)}; got {self.kind!r}")
        for name in ("rate", "images"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} must be between 0 and 1; got {getattr(self, name)}")
        if self.seed < 0:
            raise UsageError(f"seed must not be negative; got {self.seed}")


@dataclass(frozen=True)
class Realised:
    """Rates that an injection reached.

    Attributes:
        removed: Removed labels as a share of the clean positives.
        added: Added labels as a share of the clean positives.
        patches: Share of the patches with at least one wrong label.
    """

    removed: float
    added: float
    patches: float


def realised(clean_NL: Bools, noisy_NL: Bools) -> Realised:
    """The rates by which ``noisy_NL`` differs from ``clean_NL``."""
    positives = max(int(clean_NL.sum()), 1)
    wrong = clean_NL != noisy_NL
    return Realised(
        removed=float((wrong & clean_NL).sum() / positives),
        added=float((wrong & noisy_NL).sum() / positives),
        patches=float(wrong.any(axis=1).mean()) if len(wrong) else 0.0,
    )


def inject(
    labels_NL: Bools, noise: Noise, *, transition_LL: Floats | None = None, scores_NL: Floats | None = None
) -> Bools:
    """Noisy labels ``[N, L]``; the wrong ones are those that differ from ``labels_NL``.

    Args:
        labels_NL: Clean labels.
        noise: Kind, rate and seed.
        transition_LL: For ``pairwise``: weights from a class to another; None takes :func:`clc_neighbours` and needs
            the 19 classes.
        scores_NL: For ``instance``: probabilities of a classifier that was trained on clean labels.

    Raises:
        UsageError: ``pairwise`` or ``instance`` lacks its matrix, or a matrix has another shape or negative weights.
    """
    rng = np.random.Generator(np.random.Philox(derive_seed("label noise", noise.kind, noise.seed)))
    clean = np.asarray(labels_NL, dtype=bool)
    return _injector(clean, noise, transition_LL, scores_NL)(clean, noise, rng)


_Injector = Callable[[Bools, Noise, np.random.Generator], Bools]


def _injector(clean: Bools, noise: Noise, transition: Floats | None, scores: Floats | None) -> _Injector:
    classes = clean.shape[1]
    if noise.kind == PAIRWISE:
        matrix = clc_neighbours() if transition is None else np.asarray(transition, dtype=np.float64)
        _require_weights("the transition matrix", matrix, (classes, classes))
        return partial(_class_change, target_weights=lambda image, old: matrix[old])
    if noise.kind == INSTANCE:
        if scores is None:
            raise UsageError("noise kind 'instance' needs the scores of a classifier; got none")
        given = np.asarray(scores, dtype=np.float64)
        _require_weights("the scores", given, clean.shape)
        return partial(_class_change, target_weights=lambda image, old: given[image], source_weights=1 - given)
    simple: dict[str, _Injector] = {
        CLASS_CHANGE: _class_change,
        MIXED_FLIP: _mixed_flip,
        SUBTRACTIVE: partial(_add_and_remove, removals=1.0),
        ADDITIVE: partial(_add_and_remove, removals=0.0),
        MIXED: partial(_add_and_remove, removals=0.5),
    }
    return simple[noise.kind]


def _require_weights(what: str, weights: Floats, shape: tuple[int, ...]) -> None:
    if weights.shape != shape or not np.isfinite(weights).all() or (weights < 0).any() or (weights > 1).any():
        raise UsageError(f"{what} must be {list(shape)} with values in 0..1; got {list(weights.shape)}")


def _class_change(
    clean: Bools,
    noise: Noise,
    rng: np.random.Generator,
    target_weights: Callable[[int, int], Floats] | None = None,
    source_weights: Floats | None = None,
) -> Bools:
    noisy = clean.copy()
    images, classes = np.nonzero(clean)
    weights = None if source_weights is None else source_weights[images, classes] + 1e-9
    for entry in _drawn(len(images), noise.rate, rng, weights):
        image, old = images[entry], classes[entry]
        free = ~(clean[image] | noisy[image])  # neither true nor already taken: each change stays one of each kind
        target = free.astype(np.float64) if target_weights is None else free * target_weights(image, old)
        if target.sum() > 0:
            noisy[image, old] = False
            noisy[image, rng.choice(len(target), p=target / target.sum())] = True
    return noisy


def _mixed_flip(clean: Bools, noise: Noise, rng: np.random.Generator) -> Bools:
    noisy = clean.copy()
    count, classes = clean.shape
    for image in rng.choice(count, size=int(noise.images * count + 1e-9), replace=False):
        flipped = rng.choice(classes, size=int(noise.rate * classes + 1e-9), replace=False)
        noisy[image, flipped] ^= True
        if clean[image].any() and not noisy[image].any():
            noisy[image, rng.choice(np.flatnonzero(clean[image]))] = True
    return noisy


def _add_and_remove(clean: Bools, noise: Noise, rng: np.random.Generator, removals: float) -> Bools:
    noisy = clean.copy()
    positives = int(clean.sum())
    for image, label in _entries(clean, noise.rate * removals, positives, rng):
        if noisy[image].sum() > 1:
            noisy[image, label] = False
    for image, label in _entries(
        ~clean & clean.any(axis=1, keepdims=True), noise.rate * (1 - removals), positives, rng
    ):
        noisy[image, label] = True
    return noisy


def _entries(allowed: Bools, rate: float, positives: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """floor(rate x positives) of the allowed entries, ``[n, 2]``, or all of them where there are fewer."""
    entries = np.argwhere(allowed)
    return entries[rng.permutation(len(entries))[: int(rate * positives + 1e-9)]]


def _drawn(count: int, rate: float, rng: np.random.Generator, weights: Floats | None = None) -> npt.NDArray[np.int64]:
    size = int(rate * count + 1e-9)  # 0.3 x 10 is 3, whatever the binary fraction
    if weights is None:
        return rng.permutation(count)[:size]
    # The exponential race draws without replacement by weight in one pass (Efraimidis and Spirakis, 2006).
    return np.argsort(rng.exponential(size=count) / weights, kind="stable")[:size]


def clc_neighbours() -> Floats:
    """Transition weights ``[19, 19]``: 1 to the other classes of the same CORINE group (first digit of the code)."""
    groups = np.zeros(len(CLASSES), dtype=np.int64)
    for code, index in CLC_TO_CLASS.items():
        groups[index] = code // 100
    same = groups[:, None] == groups[None, :]
    return (same & ~np.eye(len(CLASSES), dtype=bool)).astype(np.float64)
