"""``eoforge doctor``: checks of this machine and of an object store."""

from __future__ import annotations

from typing import Annotated

import typer

from eoforge.cli.output import Json, as_dict, emit_rows
from eoforge.errors import StoreError


def doctor(
    uri: Annotated[str | None, typer.Argument(help="Store to probe: a path or s3:// URI.")] = None,
    json: Json = False,
) -> None:
    """Probe this machine and, if named, an object store: credentials, racing conditional PUTs, range reads."""
    from eoforge.storage.doctor import probe_machine, probe_store

    checks = probe_machine() + (probe_store(uri) if uri else [])
    emit_rows([as_dict(c) for c in checks], title="doctor")
    failed = [c for c in checks if not c.ok]
    if failed:
        raise StoreError("; ".join(map(str, failed)))
