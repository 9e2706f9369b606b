"""Building and reading of ``predictions.lance``: labels and maps, or values, of patches, exactly once.

One row per patch that has every sensor that the bundle reads; the others have no row and are counted. Planning, shards
and commit are those of the index (``jobs.py``); ``prediction_maps.py`` reads and exports maps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eoforge.data.labels import CLASSES, mask_of
from eoforge.data.loading.batch import read_rows
from eoforge.data.tables.schema import predictions_schema, values_schema
from eoforge.errors import DataRefused
from eoforge.index.jobs import (
    IndexPlan,
    IndexSummary,
    Inputs,
    commit_rows,
    load_plan,
    made_info,
    plan_rows,
    table_for,
    write_shards,
)
from eoforge.index.predictor import Predicted, Predictor, ValuePredictor, Values
from eoforge.progress import Tracker
from eoforge.storage.addresses import TableRef

if TYPE_CHECKING:
    import lance

CLASSES_KEY = "eoforge.classes"
"""Key of the schema metadata with the names of the classes, as JSON, in the order of the probabilities."""
CALIBRATION_KEY = "eoforge.calibration"
"""Key of the schema metadata with temperature and thresholds, as JSON."""
TARGET_KEY = "eoforge.target"
"""Key of the schema metadata with name, unit, valid range and level of the intervals of values, as JSON."""
_BATCH = 32


def plan_predictions(
    bundle_uri: str,
    table: TableRef,
    predictions_uri: str,
    predictor: Predictor | ValuePredictor,
    shard_rows: int = 4096,
) -> IndexPlan:
    """Plan of the patches without a prediction of this bundle, or with one of other pixels, cut into shards.

    Patches that lack a sensor of the bundle are left out; ``incomplete`` of the plan counts them. A repeated call
    returns the same plan, so that a killed run continues where it stopped.

    Args:
        bundle_uri: Run bundle that classifies, segments or regresses.
        table: Table of patches; without a version the newest is pinned.
        predictions_uri: Table of predictions, created if absent.
        predictor: Predictor of the bundle; its calibration, or its target, is written beside the rows.
        shard_rows: Patches per shard.

    Raises:
        NotFound: The bundle or the patches do not exist.
        DataRefused: The table belongs to another bundle or other patches, or no patch has all sensors of the bundle.
        UsageError: The predictions belong to a newer version of the patches, ``shard_rows`` is below 1, or
            ``predictions_uri`` names a version or a whole bucket.
    """
    inputs = Inputs.open(made_info, bundle_uri, table, predictions_uri, shard_rows)
    metadata = inputs.info.metadata(inputs.uri)
    if isinstance(predictor, ValuePredictor):
        schema = values_schema(metadata | {TARGET_KEY: json.dumps(predictor.target)})
    else:
        calibration = {"temperature": predictor.temperature, "thresholds": list(predictor.thresholds)}
        further = {CLASSES_KEY: json.dumps(CLASSES), CALIBRATION_KEY: json.dumps(calibration)}
        schema = predictions_schema(len(CLASSES), predictor.maps, metadata | further)
    made = table_for(inputs.info, inputs.uri, schema, "predictions")
    if not set(schema.names) <= set(made.schema.names):
        raise DataRefused(f"{inputs.uri} is no table of predictions; choose another address")
    return plan_rows("predict", inputs, made, needed=predictor.sensors)


def predict_shards(
    predictions_uri: str, job_id: str, first: int, count: int, predictor: Predictor | ValuePredictor
) -> dict[str, int]:
    """Prediction of shards ``first`` to ``first + count - 1``; shards with a manifest are skipped.

    Args:
        predictions_uri: Table of predictions.
        job_id: From :func:`plan_predictions`.
        first: First shard.
        count: Number of shards; those past the last are ignored.
        predictor: Predictor of the bundle of the plan.

    Returns:
        Shards and patches written by this call, and shards skipped.

    Raises:
        NotFound: The plan does not exist.
    """
    plan, job = load_plan(predictions_uri, job_id)

    def make(
        patches: lance.LanceDataset, rows: npt.NDArray[np.int64], schema: pa.Schema, progress: Tracker
    ) -> Iterator[pa.RecordBatch]:
        for start in range(0, len(rows), _BATCH):
            part = rows[start : start + _BATCH]
            digests = patches.take(part, columns=["digest"]).column("digest").combine_chunks()
            batch = read_rows(patches, part, predictor.sensors, reference_map=False)
            found = predictor.predict(batch)
            columns = _value_columns(found) if isinstance(found, Values) else _class_columns(found)
            columns |= {"patch_id": pa.array(batch.patch_id, pa.string()), "digest": digests}
            yield pa.RecordBatch.from_arrays([columns[field.name] for field in schema], schema=schema)
            progress.advance(len(part))

    done = write_shards(plan, job, first, count, make, "predicting")
    return {key: done[key] for key in ("shards", "patches", "skipped_shards")}


def commit_predictions(predictions_uri: str, job_id: str) -> IndexSummary:
    """Commit of the predictions of a job, once.

    Raises:
        NotFound: The plan does not exist.
        StoreError: A shard is not predicted yet.
        ConflictError: The predictions meanwhile belong to a newer version of the patches.
    """
    return commit_rows(*load_plan(predictions_uri, job_id))


def predict_table(
    bundle_uri: str,
    table: TableRef,
    predictions_uri: str,
    predictor: Predictor | ValuePredictor,
    shard_rows: int = 4096,
) -> IndexSummary:
    """Plan, prediction and commit in this process; a run after a crash continues. See the steps for errors."""
    plan = plan_predictions(bundle_uri, table, predictions_uri, predictor, shard_rows)
    predict_shards(predictions_uri, plan.job_id, 0, plan.shards, predictor)
    return commit_predictions(predictions_uri, plan.job_id)


def _value_columns(found: Values) -> dict[str, pa.Array]:
    return {name: pa.array(column) for name, column in found._asdict().items()}


def _class_columns(predicted: Predicted) -> dict[str, pa.Array]:
    labels = [sorted(CLASSES[i] for i in np.flatnonzero(row)) for row in predicted.labels]
    flat = np.ascontiguousarray(predicted.probabilities, dtype=np.float32).reshape(-1)
    columns = {
        "probabilities": pa.FixedSizeListArray.from_arrays(pa.array(flat), predicted.probabilities.shape[1]),
        "labels": pa.array(labels, pa.list_(pa.string())),
        "label_mask": pa.array([mask_of(row) for row in labels], pa.uint32()),
    }
    if predicted.pixel_map is not None:
        columns["pixel_map"] = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(predicted.pixel_map))
    return columns
