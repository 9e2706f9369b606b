"""Evaluation of a bundle that regresses: errors, coverage of the intervals, countries and residuals on the map.

Patches of the test split without a value of the target are left out and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from eoforge.data.loading.batch import PatchFilter
from eoforge.data.loading.loader import PatchLoader
from eoforge.errors import UsageError
from eoforge.methods.evaluation.charts import COLOURS, chart
from eoforge.methods.evaluation.label_details import places_of
from eoforge.metrics.regression import Floats, interval_figures, regression_figures
from eoforge.progress import track
from eoforge.report import Html, element, figure, section, table
from eoforge.storage.addresses import TableRef, open_table

if TYPE_CHECKING:
    from eoforge.bundle import Bundle
    from eoforge.methods import Regresses

VALUE_SPLIT = "test"
BATCH = 64
_MEASURES = {"rmse": "RMSE", "mae": "MAE", "r2": "R²", "bias": "bias", "coverage": "coverage", "width": "mean width"}
_DRAWN = 500
"""Patches of the scatter plot: more would hide one another."""


@dataclass(frozen=True)
class ValueEvaluation:
    """Measures of a regressor on one split.

    Attributes:
        target: Name, unit, valid range and level of the intervals.
        without: Patches of the split that have no value of the target.
        figures: Measures over all patches.
        countries: Country -> patches and measures.
        patches: Id, truth, value, lower, upper, longitude and latitude of each patch.
    """

    target: dict[str, Any]
    without: int
    figures: dict[str, float]
    countries: dict[str, dict[str, float]]
    patches: dict[str, list[Any]]

    def headline(self) -> dict[str, float]:
        """Measures by name: ``value_rmse`` and so on."""
        return {f"value_{name}": value for name, value in self.figures.items()}

    def as_json(self) -> dict[str, Any]:
        """The key ``values`` of metrics.json."""
        return {
            "split": VALUE_SPLIT,
            "target": self.target,
            "patches": len(self.patches["patch_id"]),
            "without_value": self.without,
            "figures": self.figures,
            "countries": self.countries,
            "by_patch": self.patches,
        }


def measure_values(bundle: Bundle, method: Regresses, data: TableRef, device: str | None = None) -> ValueEvaluation:
    """The measures of a bundle's regressor on the patches of the test split that have a value.

    Args:
        bundle: A bundle of ``method``.
        method: Loads the regressor and knows the truth.
        data: Patches table at a version.
        device: Torch device.

    Raises:
        NotFound: The split is empty, or the file of values is gone.
        BundleError: The bundle is damaged.
        UsageError: No patch of the split has a value of the target.
    """
    predictor = method.regressor(bundle, device)
    truth_of = method.truth(bundle, data, VALUE_SPLIT)
    if not truth_of:
        raise UsageError(f"no patch of the {VALUE_SPLIT} split of {data} has a value of {predictor.target['name']}")
    loader = PatchLoader(
        data, batch_size=BATCH, modalities=predictor.sensors, filter=PatchFilter(splits=(VALUE_SPLIT,))
    )
    found: dict[str, tuple[float, float, float]] = {}
    with track("predicting", total=len(loader)) as progress:
        for batch in loader:
            values = predictor.predict(batch)
            rows = zip(values.value.tolist(), values.lower.tolist(), values.upper.tolist(), strict=True)
            found |= {name: row for name, row in zip(batch.patch_id, rows, strict=True) if name in truth_of}
            progress.advance()
    names = list(found)
    truth = np.array([truth_of[name] for name in names])
    value, lower, upper = np.array([found[name] for name in names]).T
    places, points = places_of(data, VALUE_SPLIT), _points(data)
    country = np.array([places[name]["country"] for name in names])
    countries = {
        str(one): {"patches": int((country == one).sum()), **_figures(truth, value, lower, upper, country == one)}
        for one in sorted(set(country.tolist()))
    }
    columns = {"patch_id": names, "truth": truth, "value": value, "lower": lower, "upper": upper}
    columns |= {"lon": [points[name][0] for name in names], "lat": [points[name][1] for name in names]}
    patches = {key: column if isinstance(column, list) else column.tolist() for key, column in columns.items()}
    figures = _figures(truth, value, lower, upper, np.ones(len(names), dtype=bool))
    return ValueEvaluation(dict(predictor.target), loader.rows - len(names), figures, countries, patches)


def _figures(
    truth: Floats, value: Floats, lower: Floats, upper: Floats, chosen: npt.NDArray[np.bool_]
) -> dict[str, float]:
    measured = regression_figures(value[chosen], truth[chosen])
    return {**measured, **interval_figures(lower[chosen], upper[chosen], truth[chosen])}


def _points(data: TableRef) -> dict[str, tuple[float, float]]:
    """Longitude and latitude of the centre of every patch of the split."""
    columns = ["patch_id", "lon_min", "lon_max", "lat_min", "lat_max"]
    rows = open_table(data).to_table(columns=columns, filter=f"split = '{VALUE_SPLIT}'").to_pylist()
    return {
        row["patch_id"]: ((row["lon_min"] + row["lon_max"]) / 2, (row["lat_min"] + row["lat_max"]) / 2) for row in rows
    }


def value_section(measured: ValueEvaluation) -> Html:
    """The section of the report: measures, scatter plot with intervals, residuals on the map, countries."""
    target = measured.target
    named = f"{target['name']} ({target['unit']})" if target["unit"] else target["name"]
    note = (
        f"{len(measured.patches['patch_id']):,} patches of the {VALUE_SPLIT} split; {measured.without:,} have no value "
        f"and are left out. Intervals should hold {target['level']:.0%} of the truth. Errors are in the unit of the "
        "target."
    )
    rows = [(one, found["patches"], *(found[name] for name in _MEASURES)) for one, found in measured.countries.items()]
    parts = [
        table(tuple(_MEASURES.values()), [tuple(measured.figures[name] for name in _MEASURES)]),
        element("p", note, class_="soft"),
        _pictures(measured, named),
        element("h3", "By country"),
        table(("country", "patches", *_MEASURES.values()), rows),
    ]
    return section(f"Values: {named}", *parts)


def _pictures(measured: ValueEvaluation, named: str) -> Html:
    columns = {key: np.array(column) for key, column in measured.patches.items() if key != "patch_id"}
    truth, value = columns["truth"], columns["value"]
    step = max(1, len(truth) // _DRAWN)
    drawing, (left, right) = chart(2, (11, 4.5))
    some = slice(None, None, step)
    # The value may lie at the end of its interval, and rounding then gives a length just below 0.
    below, above = np.maximum(value - columns["lower"], 0), np.maximum(columns["upper"] - value, 0)
    left.errorbar(
        truth[some],
        value[some],
        yerr=(below[some], above[some]),
        fmt="o",
        ms=3,
        lw=0.5,
        color=COLOURS["accent"],
        ecolor=COLOURS["line"],
    )
    ends = (min(truth.min(), value.min()), max(truth.max(), value.max()))
    left.plot(ends, ends, color=COLOURS["warm"], lw=1)
    left.set(xlabel=f"truth, {named}", ylabel="prediction with interval")
    residual = value - truth
    most = float(np.abs(residual).max()) or 1.0
    points = right.scatter(columns["lon"], columns["lat"], c=residual, cmap="coolwarm", vmin=-most, vmax=most, s=12)
    drawing.colorbar(points, ax=right, label="prediction minus truth")
    right.set(xlabel="longitude", ylabel="latitude")
    every = "every patch" if step == 1 else f"every {step}th patch"
    return figure(drawing, f"Left: {every} with its interval. Right: residuals at the centres of the patches.")
