"""Definitions of the pipelines: the order of the steps, and the resources of each step.

Modules in this package must not use ``from __future__ import annotations``: kfp reads the annotations as types.
"""

from importlib import import_module
from typing import Any


def all_pipelines() -> dict[str, Any]:
    """All pipelines by name; imports kfp, which ``PIPELINES`` does not."""
    return {name: getattr(import_module(f"pipelines.definitions.{name}"), name) for name in PIPELINES}


PIPELINES: tuple[str, ...] = (
    "ingest",
    "construct",
    "train",
    "index",
    "index_ivf",
    "compress_archive",
    "predict",
    "evaluate",
    "audit_labels",
    "archive_to_service",
    "federate",
    "active_learning",
)
