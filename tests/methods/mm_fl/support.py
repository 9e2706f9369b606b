"""Settings of MM-FL small enough for a test."""

from __future__ import annotations

from eoforge.methods.mm_fl.config import Config
from eoforge.methods.mm_fl.method import METHOD

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
