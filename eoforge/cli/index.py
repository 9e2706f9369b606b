"""``eoforge index``: binary codes of a table of patches."""

from __future__ import annotations

from typing import Annotated

import typer

from eoforge.cli.output import Json, as_dict, emit


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
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            help="exact: every search compares all codes. ivf: an index of Lance, for archives larger than a machine. "
            "By default that of CODES, exact if it is new.",
        ),
    ] = "",
    json: Json = False,
) -> None:
    """Encode every patch of a table into binary codes, exactly once."""
    from eoforge.bundle import load_bundle
    from eoforge.index.build import build_index
    from eoforge.index.ivf.build import build_ivf
    from eoforge.index.ivf.table import IVF, engine_of
    from eoforge.index.jobs import rebase as rebase_table
    from eoforge.methods import Task, get_method, require_task
    from eoforge.storage.addresses import TableRef, open_table

    if rebase:
        info = rebase_table(bundle, TableRef.parse(table), codes)
        emit({"codes": codes, "bundle": info.bundle_uri, "patches": str(info.patches)}, title="rebased")
        return
    loaded = load_bundle(bundle)
    require_task(loaded, Task.ENCODE)
    encoder = get_method(str(loaded.config["method"])).load(loaded)
    summary = as_dict(build_index(bundle, TableRef.parse(table), codes, encoder, engine=engine))
    if engine_of(open_table(codes).schema) == IVF:
        built = build_ivf(summary["codes"])
        summary |= {"version": open_table(codes).version, "partitions": built.partitions, "recall": built.recall}
    emit(summary, title="indexed")
