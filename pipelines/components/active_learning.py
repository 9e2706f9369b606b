"""Steps of active learning: state of an annotation session, and its next batch."""

# mypy: disable-error-code="valid-type,call-arg,empty-body,return-value"
# kfp reads named outputs from a NamedTuple call in the annotation, which mypy takes for an invalid type.

from typing import NamedTuple

from kfp.dsl import Metrics, Output

from pipelines.components._component import component


# kfp.local evaluates conditions only over a task output that is called "Output".
@component
def open_session(
    session: str, table: str, version: str, preset: str, overrides: list, votes: int, metrics: Output[Metrics]
) -> NamedTuple("Session", [("Output", str), ("bundle", str), ("patches", str), ("patches_version", str)]):
    """State of an annotation session, which is created if it is absent; only then the other inputs count.

    Args:
        session: Folder or s3:// prefix of the session.
        table: Lance table of patches.
        version: Version of the table; empty for the newest.
        preset: tiny or paper.
        overrides: Configuration overrides, each "key=value".
        votes: Annotators per pair.

    Returns:
        Output: "first" (the first batch is to be chosen), "select" (the next one), "wait" (people are at work) or
            "index" (the session is finished).
        bundle: Bundle of the final model; empty before.
        patches: Lance table of patches of the session.
        patches_version: Its version.
        metrics: Answers, open pairs, remaining budget, agreement, and score of the newest model.
    """
    from eoforge.errors import NotFound
    from eoforge.methods import get_method
    from eoforge.methods.anneal.features import with_start
    from eoforge.methods.anneal.sessions import AnnotationSession
    from eoforge.storage.addresses import TableRef

    try:
        opened = AnnotationSession.open(session)
    except NotFound:
        given = dict(text.split("=", 1) for text in overrides)
        config = with_start(get_method("anneal").config(preset, given))
        ref = TableRef(table, int(version) if version else None)
        opened = AnnotationSession.create(session, ref, config, votes=int(votes))
    status = opened.status()
    figures = {"answered": status.answered, "open": status.open, "remaining": status.remaining, "kappa": status.kappa}
    figures["score"] = status.rounds[-1].score if status.rounds else None
    print(f"{session}: {status.state}, batch {status.iteration}, {figures}")
    for name, value in figures.items():
        if value is not None:
            metrics.log_metric(name, value)
    todo = {"new": "first", "ready": "select", "answering": "wait", "finished": "index"}[status.state]
    patches = opened.settings.patches
    return (todo, status.bundle, patches.uri, str(patches.version))


@component
def select_pairs(session: str, metrics: Output[Metrics]) -> str:
    """Training on the answers so far, and the next batch of pairs; after the last one, the bundle.

    Args:
        session: Folder or s3:// prefix of the session.

    Returns:
        Output: Bundle of the final model; empty while batches follow.
        metrics: Figures of the model.
    """
    from eoforge.methods.anneal.sessions import AnnotationSession

    opened = AnnotationSession.open(session)
    batch = opened.select_next()
    print(f"batch {batch.iteration}: {len(batch.pairs)} pairs")
    for name, value in batch.figures.items():
        metrics.log_metric(name.replace("@", "_at_"), value)
    return opened.status().bundle
