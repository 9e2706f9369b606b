"""Definitions of the pipelines: the order of the steps, and the resources of each step.

Modules in this package must not use ``from __future__ import annotations``: kfp reads the annotations as types.
"""

from typing import Any


def all_pipelines() -> dict[str, Any]:
    """All pipelines by name; imports kfp, which ``PIPELINES`` does not."""
    from pipelines.definitions.archive_to_service import archive_to_service
    from pipelines.definitions.compress_archive import compress_archive
    from pipelines.definitions.evaluate import evaluate
    from pipelines.definitions.federate import federate
    from pipelines.definitions.index import index
    from pipelines.definitions.ingest import ingest
    from pipelines.definitions.train import train

    return {
        "ingest": ingest,
        "train": train,
        "index": index,
        "compress_archive": compress_archive,
        "evaluate": evaluate,
        "archive_to_service": archive_to_service,
        "federate": federate,
    }


PIPELINES: tuple[str, ...] = (
    "ingest",
    "train",
    "index",
    "compress_archive",
    "evaluate",
    "archive_to_service",
    "federate",
)
