"""Outputs of the models, by what a bundle predicts: classes with or without maps, or a value with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eoforge.data.bands import S2_10M
from eoforge.data.labels import CLASSES
from eoforge.index.predictor import Predicted, Values
from eoforge.methods.prediction import BundlePredictor
from eoforge.methods.value_prediction import BundleValuePredictor
from services._runtime.oip.tensors import tensor

AnyPredictor = BundlePredictor | BundleValuePredictor
Row = tuple[Any, ...]
"""Outputs of one patch, in the order of :func:`per_patch`."""
NAMES = np.array(CLASSES, dtype=object)
FIXED = "classes"
"""Output that is the same for every request."""


def output_types(predictor: AnyPredictor) -> list[dict[str, Any]]:
    """Name, type, shape and meaning of each output."""
    if isinstance(predictor, BundleValuePredictor):
        return _value_types(predictor.target)
    count, side = len(CLASSES), S2_10M.size
    outputs = [
        tensor("probabilities", "FP32", -1, count, range="0 to 1, calibrated"),
        tensor("labels", "UINT8", -1, count, range="1 where the probability reaches the threshold of its class"),
        tensor(FIXED, "BYTES", count, order="of the columns of probabilities and labels"),
    ]
    if predictor.maps:
        outputs.append(tensor("pixel_map", "UINT8", -1, side, side, unit="column of classes", grid="10 m"))
    return outputs


def _value_types(target: dict[str, Any]) -> list[dict[str, Any]]:
    low, high = ("any" if target[end] is None else f"{target[end]:g}" for end in ("low", "high"))
    about = {"target": target["name"], "unit": target["unit"], "range": f"{low} to {high}"}
    ends = f"of the interval that should hold {target['level']:g} of the truth"
    return [
        tensor("value", "FP32", -1, **about),
        tensor("lower", "FP32", -1, meaning=f"lower end {ends}", **about),
        tensor("upper", "FP32", -1, meaning=f"upper end {ends}", **about),
        tensor("clipped", "UINT8", -1, meaning="1 where the value was out of the range and was set to its end"),
    ]


def per_patch(predictor: AnyPredictor) -> list[str]:
    """Names of the outputs that have an entry per patch."""
    return [output["name"] for output in output_types(predictor) if output["name"] != FIXED]


def rows_of(predicted: Predicted | Values) -> list[Row]:
    """Outputs by patch."""
    if isinstance(predicted, Values):
        columns: list[Any] = [predicted.value, predicted.lower, predicted.upper, predicted.clipped.astype(np.uint8)]
    else:
        columns = [predicted.probabilities, predicted.labels.astype(np.uint8)]
        columns += [] if predicted.pixel_map is None else [predicted.pixel_map]
    return list(zip(*columns, strict=True))


def outputs_of(predictor: AnyPredictor, rows: Sequence[Row]) -> dict[str, Any]:
    """Arrays by name of output, from the rows of a request."""
    columns = zip(*rows, strict=True)
    outputs = {name: np.stack(column) for name, column in zip(per_patch(predictor), columns, strict=True)}
    return outputs if isinstance(predictor, BundleValuePredictor) else outputs | {FIXED: NAMES}
