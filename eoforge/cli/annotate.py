"""``eoforge annotate``: sessions in which people say which patches are similar, and the model that learns from them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eoforge.cli.options import ConfigFile, Data, Overrides, parse_overrides
from eoforge.cli.output import Json, emit

if TYPE_CHECKING:
    from eoforge.methods.anneal.sessions import AnnotationSession

annotate_app = typer.Typer(help="Active learning of similarity from pairs that people judge.", no_args_is_help=True)

Session = Annotated[str, typer.Argument(help="Folder or s3:// prefix of the session.")]


class What(StrEnum):
    """Content of an export."""

    ANSWERS = "answers"
    OPEN = "open"
    BUNDLE = "bundle"


@annotate_app.command("start")
def start(
    session: Session,
    overrides: Overrides = None,
    *,
    data: Data,
    preset: Annotated[str, typer.Option(help="tiny (a laptop's CPU) or paper.")] = "tiny",
    config: ConfigFile = None,
    votes: Annotated[int, typer.Option(min=1, help="Annotators per pair.")] = 1,
    ahead: Annotated[float, typer.Option(help="Share of a batch whose answers suffice to choose the next.")] = 1.0,
    json: Json = False,
) -> None:
    """Create a session and choose its first batch of pairs; the same command again changes nothing."""
    from eoforge.methods import get_method
    from eoforge.methods.anneal.features import with_start
    from eoforge.methods.anneal.sessions import AnnotationSession
    from eoforge.storage.addresses import TableRef

    settings = get_method("anneal").config(preset, parse_overrides(overrides), str(config) if config else None)
    made = AnnotationSession.create(session, TableRef.parse(data), with_start(settings), votes=votes, ahead=ahead)
    if made.status().state == "new":
        made.select_next()
    emit(_shown(made), title="annotation session")


@annotate_app.command("next")
def choose_next(session: Session, *, json: Json = False) -> None:
    """Train on the answers so far and choose the next batch; after the last one, write the bundle."""
    opened = _open(session)
    opened.select_next()
    emit(_shown(opened), title="annotation session")


@annotate_app.command("import")
def import_answers(
    session: Session,
    file: Annotated[Path, typer.Argument(help="CSV: first, second, answer, and optionally seconds.")],
    *,
    annotator: Annotated[str, typer.Option(help="Who answered.")],
    json: Json = False,
) -> None:
    """Store answers from a file, each once; pairs without an answer are left out."""
    from eoforge.methods.anneal.exchange import read_answers

    opened = _open(session)
    batches = {pair: (each.iteration, each.model) for each in opened.rounds() for pair in each.pairs}
    stored = opened.import_answers(read_answers(file, annotator, batches))
    emit({"stored": stored, **_shown(opened)}, title="annotation session")


@annotate_app.command("export")
def export(
    session: Session,
    target: Annotated[str, typer.Argument(help="FILE.csv or FILE.parquet; for a bundle the folder of bundles.")],
    *,
    what: Annotated[What, typer.Option(help="All answers, the open pairs, or the newest model.")] = What.ANSWERS,
    annotator: Annotated[str, typer.Option(help="For open pairs: whose.")] = "",
    json: Json = False,
) -> None:
    """Write the annotations, the pairs that wait for answers, or the newest model as a run bundle."""
    opened = _open(session)
    if what is What.BUNDLE:
        from eoforge.methods.anneal.rounds import newest_model, write_model

        bundle = write_model(opened, *newest_model(opened), target)
        emit({"bundle": bundle.uri, "bundle_id": bundle.id}, title="exported")
        return
    from eoforge.methods.anneal.exchange import write_annotations, write_open

    if what is What.OPEN:
        pairs = opened.batch(annotator)
        write_open(pairs, Path(target))
        emit({"file": target, "pairs": len(pairs)}, title="exported")
        return
    annotations = opened.annotations()
    write_annotations(annotations, Path(target))
    emit({"file": target, "annotations": len(annotations.rows)}, title="exported")


@annotate_app.command("status")
def status(session: Session, *, json: Json = False) -> None:
    """Show batch, answers, remaining budget, agreement, and the gain of each round."""
    opened = _open(session)
    rounds = opened.status().rounds
    table = [{"iteration": r.iteration, "score": r.score, "gain": r.gain, **r.figures} for r in rounds]
    scores = {r.iteration: "" if r.score is None else f"{r.score:.3f}" for r in rounds}
    emit(_shown(opened) | {"scores": scores}, title="annotation session", details={"rounds": table})


def _open(address: str) -> AnnotationSession:
    from eoforge.methods.anneal.sessions import AnnotationSession

    return AnnotationSession.open(address)


def _shown(session: AnnotationSession) -> dict[str, Any]:
    found = session.status()
    return {
        "session": session.address,
        "state": found.state,
        "iteration": found.iteration,
        "open": found.open,
        "answered": found.answered,
        "remaining": found.remaining,
        "annotators": found.annotators,
        "disagreements": found.disagreements,
        "kappa": found.kappa,
        "bundle": found.bundle,
    }
