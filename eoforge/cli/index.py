"""``eoforge index``: binary codes of a table of patches."""

from __future__ import annotations

from typing import Annotated

import typer

from eoforge.cli.output import Json, emit


def index(
    bundle: Annotated[str, typer.Argument(help="Run bundle that encodes.")],
    table: Annotated[str, typer.Argument(help="TABLE or TABLE@VERSION with the patches.")],
    codes: Annotated[str, typer.Argument(help="Lance table for the codes.")],
    rebase: Annotated[
        bool,
        typer.Option(
            "--rebase",
            help="Only name the addresses of a moved bundle and table in CODES (codes or streams), after checking "
            "that they are the same.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Encode every patch of a table into binary codes, exactly once."""
    from eoforge.bundle import load_bundle
    from eoforge.index.build import build_index
    from eoforge.index.jobs import rebase as rebase_table
    from eoforge.methods import Task, get_method, require_task
    from eoforge.storage.addresses import TableRef

    if rebase:
        info = rebase_table(bundle, TableRef.parse(table), codes)
        emit({"codes": codes, "bundle": info.bundle_uri, "patches": str(info.patches)}, title="rebased")
        return
    loaded = load_bundle(bundle)
    require_task(loaded, Task.ENCODE)
    encoder = get_method(str(loaded.config["method"])).load(loaded)
    emit(build_index(bundle, TableRef.parse(table), codes, encoder), title="indexed")
