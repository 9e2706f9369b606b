"""Pipeline annotation session -> next batch, or, when the budget is spent, codes table."""

from kfp import dsl

from pipelines.components import active_learning as steps
from pipelines.definitions.index import index
from pipelines.definitions.placement import place


@dsl.pipeline(
    name="eoforge-active-learning",
    display_name="Active learning with people",
    description="One step of an annotation session: train and choose pairs, or nothing while people answer, or index.",
)
def active_learning(
    session: str,
    table: str,
    codes: str,
    version: str = "",
    preset: str = "paper",
    overrides: list[str] = [],  # noqa: B006  # kfp copies the default into the compiled pipeline
    votes: int = 1,
    shard_rows: int = 4096,
):
    """Pipeline of one step of an annotation session; a run while people answer ends at once and changes nothing.

    The session holds the state, so nothing waits: a recurring run, or the console, starts the pipeline again.

    Args:
        session: Folder or s3:// prefix of the session, for example s3://lake/sessions/crops.
        table: Lance table of patches.
        codes: Lance table for the codes of the final model; "{bundle}" becomes the short id of the bundle.
        version: Version of the table; empty for that of the session, or the newest.
        preset: tiny (minutes on a CPU) or paper.
        overrides: Configuration overrides, each "key=value".
        votes: Annotators per pair.
        shard_rows: Patches per shard of the encoding.
    """
    opened = place(
        steps.open_session(
            session=session, table=table, version=version, preset=preset, overrides=overrides, votes=votes
        ),
        cpu="1",
        memory="2Gi",
    )
    todo = opened.outputs["Output"]
    with dsl.If(todo == "first", name="first-batch"):  # computes the features of all patches, which later ones read
        place(steps.select_pairs(session=session), cpu="8", memory="16Gi", gpu=True, hours=24)
    with dsl.If(todo == "select", name="next-batch"):
        place(steps.select_pairs(session=session), cpu="8", memory="16Gi", hours=24)
    with dsl.If(todo == "index", name="final-codes"):
        indexed = index(
            bundle=opened.outputs["bundle"],
            table=opened.outputs["patches"],
            version=opened.outputs["patches_version"],
            codes=codes,
            shard_rows=shard_rows,
        )
        indexed.set_caching_options(False)
