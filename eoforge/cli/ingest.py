"""``eoforge ingest``: archives to Lance tables."""

from __future__ import annotations

from typing import Annotated

import typer

from eoforge.cli.output import Json, emit


def ingest(
    archive: Annotated[str, typer.Argument(help="Directory, s3:// prefix, folder of .tar/.tar.zst, or rico-hdl LMDB.")],
    table: Annotated[str, typer.Argument(help="Lance table to create or grow: a path or s3:// URI.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes that read and write shards.")] = 1,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse the whole archive if one patch is bad.")] = False,
    only_present: Annotated[
        bool,
        typer.Option("--only-present", help="Leave out rows of the metadata whose patches are not in the archive."),
    ] = False,
    json: Json = False,
) -> None:
    """Ingest an archive into a Lance table, exactly once; run it again after any interruption."""
    from eoforge.data.ingest.run import ingest as run
    from eoforge.data.ingest.run import require_some_accepted

    summary = run(archive, table, workers=workers, strict=strict, only_present=only_present)
    emit(summary, title="ingested")
    require_some_accepted(summary)
