"""Tables of federated runs over several seeds: stored figures of each run, their mean and deviation, command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from eoforge.errors import UsageError
from eoforge.federated.training.config import FederatedConfig
from eoforge.methods.run_files import run_name
from eoforge.storage.addresses import TableRef

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds of a text like ``0,1,2``.

    Raises:
        ValueError: A part is no integer.
    """
    return tuple(map(int, text.split(",")))


def refuse_seed(overrides: Mapping[str, str]) -> None:
    """Check that no override sets a seed: seeds are an option of their own.

    Raises:
        UsageError: An override sets one.
    """
    if any(key.rpartition(":")[2] == "seed" for key in overrides):
        raise UsageError("every row is run with the same seeds: give them by --seeds, not by seed=...")


def row_of(
    method: str,
    configs: Sequence[FederatedConfig],
    table: TableRef,
    folder: Path,
    run: Callable[[Any], dict[str, Any]],
) -> dict[str, Any]:
    """Row of a table: figures averaged over runs that differ in their seed alone.

    Args:
        method: Name of the method.
        configs: Settings of the runs.
        table: A patches table at a version.
        folder: Folder of one JSON file per finished run; runs with a file there are not repeated.
        run: Figures of one run, with its test figures under ``test``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    runs = []
    for config in configs:
        path = folder / f"{run_name(method, config.as_dict(), table)}.json"
        if not path.exists():
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(run(config), indent=2) + "\n")
            partial.replace(path)
        runs.append(json.loads(path.read_text()))
    return averaged(runs)


def averaged(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The first run with every fraction, at any depth, replaced by its mean over all runs.

    Args:
        runs: Figures with equal keys. Counts and names are the first run's; a value that is None in a run becomes None.

    Returns:
        The row, with ``deviation``: sample standard deviations of the figures in ``test`` (0 with one run).
    """
    tests = {name: [run["test"][name] for run in runs] for name in runs[0]["test"]}
    deviation = {name: stdev(values) if len(values) > 1 else 0.0 for name, values in tests.items()}
    return {**_mean(runs), "deviation": deviation}


def figure_text(row: Mapping[str, Any], name: str) -> str:
    """Mean of a test figure, with its deviation unless that is 0."""
    spread = row["deviation"][name]
    return f"{row['test'][name]:.3f}" + (f" ± {spread:.3f}" if spread else "")


def lead_text(result: Mapping[str, Any]) -> str:
    """First sentence of a report: table, preset, overrides and seeds."""
    return (
        f"Trained on {result['table']}, preset {result['preset']}, overrides {result['overrides'] or 'none'}; "
        f"means over seeds {', '.join(map(str, result['seeds']))}."
    )


def page_axes() -> tuple[Figure, Axes]:
    """Figure of the width of a page, and its axes."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(8, 4))
    axes = fig.subplots()
    axes.grid(alpha=0.3)
    return fig, axes


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Command line of a table of runs: ``--data``, ``--out``, ``--preset``, ``--seeds`` and ``key=value ...``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=TableRef.parse, help="TABLE or TABLE@VERSION")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--seeds", type=parse_seeds, default=(0,))
    parser.add_argument("settings", nargs="*", metavar="key=value")
    return parser


def overrides_of(arguments: argparse.Namespace) -> dict[str, str]:
    """Overrides of a command line of :func:`parser_of`."""
    return dict(setting.split("=", 1) for setting in arguments.settings)


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
