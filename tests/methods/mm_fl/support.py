"""Settings and a bundle of MM-FL small enough for a test."""

from __future__ import annotations

from typing import Any

from eoforge.bundle import Bundle, write_bundle
from eoforge.methods.mm_fl.config import Config
from eoforge.methods.mm_fl.method import METHOD
from eoforge.storage.addresses import TableRef

SMALL = {
    "rounds": "2",
    "local_epochs": "1",
    "width": "8",
    "size": "20",
    "bits": "16",
    "batch_size": "16",
    "slots": "509",
    "embedding": "8",
}


def config(**overrides: str) -> Config:
    made: Config = METHOD.config("tiny", {**SMALL, **overrides})
    return made


def untrained_bundle(settings: Config, table: TableRef, out: str) -> Bundle:
    """Bundle of MM-FL with initial weights; its classifier takes one sensor or both."""
    bands = {sensor: list(names) for sensor, names in settings.sensor_bands.items()}
    network = METHOD.build(settings)
    facts: dict[str, Any] = {
        "method": "mm_fl",
        "config": settings.as_dict(),
        "bands": bands,
        "normalisation": {band: [0.0, 1000.0] for names in bands.values() for band in names},
        "interpolation": settings.interpolation,
        "bits": settings.bits,
        "embedding_dim": network.features,
        "seed": settings.seed,
        "patches": {"uri": table.uri, "version": table.version},
        "code_revision": "none",
    }
    return write_bundle(out, weights=network.state_dict(), config=facts, metrics={}, readme="")
