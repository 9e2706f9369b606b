"""Learning rate of a step, relative to its peak: linear warm-up, then half a cosine or a constant."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["cosine", "constant"]


def relative_rate(step: int, steps: int, warmup: float, schedule: Schedule = "cosine") -> float:
    """Learning rate of optimiser step ``step`` (from 0) of ``steps``, as a share of the peak.

    With w steps of warm-up the rate of step s is ``s / (w - 1)`` for s < w; after that it is
    ``(1 + cos(pi (s - w) / (steps - w))) / 2``, or 1 for ``constant``. *Confirmed*: the schedule of CSMAE's released
    code (LinearWarmupCosineAnnealingLR of lightning-bolts). A warm-up shorter than two steps is none (*ours*: theirs
    gives a single step the rate 0).

    Args:
        step: Number of the step.
        steps: Number of steps of the run.
        warmup: Number of steps of the warm-up, whole or not.
        schedule: Shape after the warm-up.
    """
    warmup = warmup if warmup >= 2 else 0.0
    if step < warmup:
        return min(1.0, step / (warmup - 1))
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
