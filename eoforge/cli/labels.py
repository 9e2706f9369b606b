"""``eoforge noise``, ``audit`` and ``review``: training labels beside the clean ones, suspected errors, corrections."""

from __future__ import annotations

from typing import Annotated

import typer

from eoforge.cli.output import Json, emit

Table = Annotated[str, typer.Argument(help="Table of patches.")]


def noise(
    table: Table,
    *,
    kind: Annotated[
        str,
        typer.Option(
            help="class_change, mixed_flip, subtractive, additive, mixed or pairwise; shifted (maps beside their "
            "images) or bigearthnet_v1 (labels of v1)."
        ),
    ],
    rate: Annotated[float | None, typer.Option(help="Share of the labels that change, in 0..1.")] = None,
    images: Annotated[float, typer.Option(help="Share of the patches that mixed_flip touches.")] = 0.4,
    pixels: Annotated[int | None, typer.Option(help="Shift of the maps, for shifted.")] = None,
    v1: Annotated[str | None, typer.Option(help="Folder BigEarthNet-v1.0, for bigearthnet_v1.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    maps: Annotated[bool, typer.Option("--maps", help="Change reference maps consistently.")] = False,
    json: Json = False,
) -> None:
    """Make a version of a table whose training labels are partly wrong; clean labels stay."""
    from eoforge.data.noise.derived import add_noise
    from eoforge.data.noise.real import SHIFTED, V1, add_shift, add_v1_labels
    from eoforge.data.noise.scene import KINDS, Noise
    from eoforge.errors import UsageError

    needed = {SHIFTED: ("pixels", pixels), V1: ("v1", v1)}.get(kind, ("rate", rate))
    if kind not in (*KINDS, SHIFTED, V1):
        raise UsageError(f"noise kind must be one of {', '.join((*KINDS, SHIFTED, V1))}; got {kind!r}")
    if needed[1] is None:
        raise UsageError(f"noise of kind {kind} needs --{needed[0]}")
    if kind == SHIFTED:
        assert pixels is not None
        made = add_shift(table, pixels, seed)
    elif kind == V1:
        assert v1 is not None
        made = add_v1_labels(table, v1)
    else:
        assert rate is not None
        made = add_noise(table, Noise(kind, rate, seed, images), maps=maps)
    emit(_shown(made), title="training labels")


def audit(
    table: Annotated[str, typer.Argument(help="TABLE or TABLE@VERSION with the patches.")],
    issues: Annotated[str, typer.Argument(help="New Lance table for the suspected errors.")],
    *,
    bundle: Annotated[str, typer.Option(help="Run bundle that classifies.")],
    report: Annotated[str | None, typer.Option(help="Folder for report.html.")] = None,
    json: Json = False,
) -> None:
    """Find training labels that are probably wrong, with pictures and numbers per class and country."""
    from eoforge.bundle import load_bundle
    from eoforge.methods.audit import audit as run
    from eoforge.storage.addresses import TableRef

    emit(run(load_bundle(bundle), TableRef.parse(table), issues, report=report), title="label audit")


def review(
    issues: Annotated[str, typer.Argument(help="Table of `eoforge audit`.")],
    *,
    decisions: Annotated[str | None, typer.Option(help="CSV: patch_id, class, present (1 or 0).")] = None,
    min_probability: Annotated[
        float | None, typer.Option(min=0.5, max=1.0, help="Take every suggestion that is at least so likely.")
    ] = None,
    table: Annotated[str | None, typer.Option(help="The audited table, if it moved.")] = None,
    json: Json = False,
) -> None:
    """Make a version of the audited table with corrected training labels."""
    from eoforge.methods.audit import review as run

    made = run(issues, decisions=decisions, min_probability=min_probability, table=table)
    emit(_shown(made), title="training labels")


def _shown(made: object) -> dict[str, object]:
    from eoforge.data.noise.derived import Derived

    assert isinstance(made, Derived)
    return {
        "table": str(made.table),
        "patches": made.patches,
        "removed": made.rates.removed,
        "added": made.rates.added,
        "wrong_patches": made.rates.patches,
    }
