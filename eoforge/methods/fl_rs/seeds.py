"""One row of a table from the runs of several seeds: a difference between rows means little without its spread."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from eoforge.errors import UsageError


def parse_seeds(text: str) -> tuple[int, ...]:
    """``0,1,2`` as numbers.

    Raises:
        ValueError: They are none.
    """
    return tuple(map(int, text.split(",")))


def refuse_seed(overrides: Mapping[str, str]) -> None:
    """Seeds are given in one way only.

    Raises:
        UsageError: One is among the overrides.
    """
    if any(key.rpartition(":")[2] == "seed" for key in overrides):
        raise UsageError("every row is run with the same seeds: give them by --seeds, not by seed=...")


def kept(path: Path, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """One run's figures: as an earlier comparison left them in ``path``, or made now and left there whole."""
    if not path.exists():
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(run(), indent=2) + "\n")
        partial.replace(path)
    figures: dict[str, Any] = json.loads(path.read_text())
    return figures


def averaged(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The first run with the mean over all in place of every fraction, however deep.

    Args:
        runs: Same keys; counts, names and what is not there in every run stay the first's or become None.

    Returns:
        The row, with ``deviation``: sample standard deviations of the figures in ``test`` (0 with one run).
    """
    tests = {name: [run["test"][name] for run in runs] for name in runs[0]["test"]}
    deviation = {name: stdev(values) if len(values) > 1 else 0.0 for name, values in tests.items()}
    return {**_mean(runs), "deviation": deviation}


def cell(row: Mapping[str, Any], name: str) -> str:
    """A test figure as mean, and its deviation where there is one."""
    spread = row["deviation"][name]
    return f"{row['test'][name]:.3f}" + (f" ± {spread:.3f}" if spread else "")


def _mean(values: Sequence[Any]) -> Any:
    first = values[0]
    if any(value is None for value in values):
        return None
    if isinstance(first, float):
        return fmean(values)
    if isinstance(first, Mapping):
        return {key: _mean([value[key] for value in values]) for key in first}
    if isinstance(first, list) and all(len(value) == len(first) for value in values):
        return [_mean(each) for each in zip(*values, strict=True)]
    return first
