"""List of the bundles below a folder, from their small files alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from eoforge.bundle.format import CONFIG, MANIFEST, METRICS, parse_object, size_limit
from eoforge.errors import EoforgeError
from eoforge.storage.addresses import join, normalise, resolve
from eoforge.storage.objects import ObjectStore

MAX_KEYS = 100_000
"""Number of keys that are looked through: a whole data lake is no folder of runs."""
_SCORES = ("validation_score", "validation_macro_ap")


@dataclass(frozen=True)
class BundleSummary:
    """Facts of a bundle whose bytes were not checked.

    Attributes:
        bundle: URI of the bundle.
        method: Name of the method.
        date: Time of writing, UTC, to the second.
        data: Training table with its version; empty if none is named.
        score: Validation figure of the model, or None if it has none.
        metric: Name of that figure in ``metrics.json``.
    """

    bundle: str
    method: str
    date: datetime
    data: str
    score: float | None
    metric: str


def list_bundles(uri: str) -> list[BundleSummary]:
    """Bundles below a folder or ``s3://`` prefix, at any depth, newest first; damaged ones are logged and left out.

    Raises:
        StoreError: The store cannot be reached or refuses access.
    """
    uri = normalise(uri)
    store = ObjectStore(uri)
    now = datetime.now(UTC)
    found = []
    for key, age in store.ages("", MAX_KEYS):
        if key.rpartition("/")[2] != MANIFEST:
            continue
        folder = key.removesuffix(MANIFEST)
        try:
            found.append(_summary(store, folder, (now - timedelta(seconds=age)).replace(microsecond=0)))
        except (EoforgeError, ValueError) as error:
            structlog.get_logger("bundle").warning("damaged bundle", bundle=join(uri, folder), error=str(error))
    return sorted(found, key=lambda summary: (summary.date, summary.bundle), reverse=True)


def _summary(store: ObjectStore, folder: str, date: datetime) -> BundleSummary:
    config, metrics = (
        parse_object(f"{folder}{name}", store.get(f"{folder}{name}", size_limit(name))) for name in (CONFIG, METRICS)
    )
    patches = config.get("patches")
    bundle = join(store.root, folder).rstrip("/")
    data = (
        f"{resolve(str(patches.get('uri')), bundle)}@{patches.get('version')}" if isinstance(patches, Mapping) else ""
    )
    metric, score = _score(metrics)
    return BundleSummary(bundle, str(config.get("method")), date, data, score, metric)


def _score(metrics: Mapping[str, Any]) -> tuple[str, float | None]:
    """Name and value of the figure by which a run chose its best epoch, else of its first validation figure."""
    named = sorted(name for name in metrics if name.startswith("validation_"))
    for name in (*_SCORES, *named):
        if isinstance(value := metrics.get(name), int | float):
            return name, float(value)
    return "", None
