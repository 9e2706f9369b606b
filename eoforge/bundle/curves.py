"""Figures of a training from its bundle: losses of every step, metrics of every epoch, numbers at the end."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from eoforge.bundle.reader import Bundle
from eoforge.errors import BundleError

CURVE = "curve.csv"
"""File of a bundle with one row per step: the first columns identify the step, the others are values."""
POSITION = ("epoch", "batch", "step")
"""Columns that identify a step or an epoch."""
MAX_COLUMNS = 256
Columns = dict[str, npt.NDArray[np.float64]]


def read_steps(bundle: Bundle) -> Columns:
    """Columns of ``curve.csv`` by name; empty if the bundle has no such file.

    Raises:
        BundleError: The file is no table of numbers.
    """
    if CURVE not in bundle.files:
        return {}
    try:
        rows = list(csv.DictReader(io.StringIO(bundle.read(CURVE).decode())))
        names = _bounded(rows[0] if rows else ())
        return {name: np.array([float(row[name]) for row in rows]) for name in names}
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise BundleError(f"{CURVE} of {bundle.uri} is no table of numbers: {error}") from error


def read_epochs(bundle: Bundle) -> Columns:
    """Columns of the history of epochs by name, NaN where an epoch lacks one; empty if there is none.

    Raises:
        BundleError: The history is no list of objects with numbers.
    """
    history = bundle.metrics.get("history", [])
    try:
        names = _bounded(dict.fromkeys(name for row in history for name in row))
        return {name: np.array([float(row.get(name, np.nan)) for row in history]) for name in names}
    except (ValueError, TypeError, AttributeError) as error:
        raise BundleError(f"the history of {bundle.uri} is no list of objects with numbers: {error}") from error


def _bounded(names: Collection[str]) -> Collection[str]:
    """Names of columns, of which a page draws each.

    Raises:
        ValueError: There are too many.
    """
    if len(names) > MAX_COLUMNS:
        raise ValueError(f"expected at most {MAX_COLUMNS} columns; got {len(names)}")
    return names


def smoothed(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Moving average over a twentieth of all steps, a window that scales with the run."""
    window = max(1, len(values) // 20)
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    average: npt.NDArray[np.float64] = (sums[ends] - sums[starts]) / (ends - starts)
    return average


def scalar_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Finite numbers among the metrics of a bundle."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
