"""Pipeline federated run -> bundle -> evaluation and codes: silos keep their patches, the bundle is a usual one."""

# mypy: disable-error-code="valid-type,call-arg,empty-body,return-value"
# kfp reads named outputs from a NamedTuple call in the annotation, which mypy takes for an invalid type.

from typing import NamedTuple

from kfp import dsl, kubernetes
from kfp.dsl import HTML, Markdown

from pipelines.components.federate import federate as federate_step
from pipelines.definitions.evaluate import evaluate
from pipelines.definitions.index import index
from pipelines.definitions.placement import place
from pipelines.settings import FEDERATION_CREDENTIALS, FEDERATION_SECRET


@dsl.pipeline(
    name="eoforge-federate",
    display_name="Train over silos",
    description="Train over silos that keep their patches; evaluate and publish.",
)
def federate(
    coordinator: str,
    run_id: str,
    table: str,
    codes: str,
    version: str = "",
    method: str = "fl_rs",
    preset: str = "paper",
    overrides: list[str] = [],  # noqa: B006  # kfp copies the default into the compiled pipeline
    min_silos: int = 2,
    quorum: int = 0,
    deadline_minutes: float = 0.0,
    k: int = 10,
) -> NamedTuple(
    "Published",
    [
        ("bundle", str),
        ("codes_table", str),
        ("codes_version", str),
        ("rounds", HTML),
        ("card", Markdown),
        ("retrieval", HTML),
    ],
):
    """Pipeline of a federated run: start and wait, evaluation of the bundle, encoding of a table.

    Args:
        coordinator: HOST:PORT of the federation service.
        run_id: Name of the run; the same name continues the same run.
        table: Lance table of patches for normalisation statistics of all silos, evaluation and indexing.
        codes: Lance table for the codes, for example s3://lake/codes-{bundle}.lance; "{bundle}" becomes the short
            id of the bundle.
        version: Version of the table to evaluate and index; empty for the newest.
        method: Method that silos train, for example fl_rs.
        preset: tiny (minutes on a CPU) or paper (the published configuration).
        overrides: Configuration overrides, each "key=value".
        min_silos: Number of connected silos that opens a round.
        quorum: Minimum number of updates of a round; 0 for min_silos.
        deadline_minutes: Time after which a round with a quorum is sealed; 0 for no deadline.
        k: Cut-off of the retrieval metrics.

    Returns:
        bundle: URI of the run bundle.
        codes_table: Table of codes to serve.
        codes_version: Version of the table of codes.
        rounds: Curves and table of the rounds.
        card: Model card.
        retrieval: Retrieval report.
    """
    from collections import namedtuple

    trained = place(
        federate_step(
            coordinator=coordinator,
            run_id=run_id,
            method=method,
            preset=preset,
            overrides=overrides,
            statistics=table,
            min_silos=min_silos,
            quorum=quorum,
            deadline_minutes=deadline_minutes,
        ),
        hours=24 * 14,
        retries=5,
    )
    kubernetes.use_secret_as_volume(
        trained, secret_name=FEDERATION_SECRET, mount_path=FEDERATION_CREDENTIALS, optional=True
    )
    bundle = trained.outputs["bundle"]
    evaluated = evaluate(bundle=bundle, table=table, version=version, k=k)
    indexed = index(bundle=bundle, table=table, version=version, codes=codes)
    for part in (evaluated, indexed):
        part.set_caching_options(False)
    return namedtuple("Published", ["bundle", "codes_table", "codes_version", "rounds", "card", "retrieval"])(
        bundle,
        indexed.outputs["codes_table"],
        indexed.outputs["codes_version"],
        trained.outputs["rounds"],
        trained.outputs["card"],
        evaluated.outputs["report"],
    )
