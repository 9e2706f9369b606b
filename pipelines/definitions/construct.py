"""Pipeline whole tiles -> patches table: plan, shards in parallel, commit, indexes and statistics, quality report."""

# mypy: disable-error-code="valid-type,call-arg,empty-body,return-value"
# kfp reads named outputs from a NamedTuple call in the annotation, which mypy takes for an invalid type.

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import HTML

from pipelines.components import ingest as steps
from pipelines.components.construct import plan_construct
from pipelines.definitions.placement import place
from pipelines.settings import INGEST_PARALLELISM


@dsl.pipeline(
    name="eoforge-construct",
    display_name="Construct from tiles",
    description="Cut Sentinel-2 tiles into a Lance table of patches, exactly once.",
)
def construct(
    tiles: str,
    table: str,
    boa_offset: str = "",
    radar: str = "",
    radar_scale: str = "",
    radar_days: int = 7,
    land_cover: str = "",
    country: str = "",
    shard_rows: int = 1024,
    strict: bool = False,
) -> NamedTuple("Constructed", [("version", str), ("summary", str), ("quality", HTML)]):
    """Pipeline of a construction; a repeated run adds only missing patches.

    Args:
        tiles: Path or s3:// prefix with level-2A products: SAFE folders, STAC Items, folders of one GeoTIFF per band.
        table: Lance table to create or grow, for example s3://lake/patches.lance.
        boa_offset: Offset of stored reflectances, -1000 or 0; empty for that of the product.
        radar: Folder of terrain-corrected Sentinel-1 scenes; empty for patches without radar.
        radar_scale: What the radar files hold, db or linear (power).
        radar_days: Largest time between both sensors in days.
        land_cover: GeoPackage or GeoTIFF of CLC level-3 codes; empty for unlabelled patches.
        country: Country of all patches; empty if it is not known.
        shard_rows: Limit of patches per shard, the unit of a retry, and minimum of patches per pod.
        strict: Refuse all tiles, and write nothing, if one patch is dropped.

    Returns:
        version: Version of the table, with its indexes.
        summary: Counts of this construction as JSON.
        quality: Quality report.
    """
    from collections import namedtuple

    plan = place(
        plan_construct(
            tiles=tiles,
            table=table,
            boa_offset=boa_offset,
            radar=radar,
            radar_scale=radar_scale,
            radar_days=radar_days,
            land_cover=land_cover,
            country=country,
            shard_rows=shard_rows,
            strict=strict,
        ),
        cpu="4",
        memory="8Gi",
        hours=24,
    )
    with dsl.ParallelFor(plan.outputs["Output"], parallelism=INGEST_PARALLELISM) as shard_range:
        part = place(steps.ingest_range(table=table, shard_range=shard_range), cpu="4", memory="8Gi", hours=24)
    commit = place(steps.commit_ingest(table=table, ingest_id=plan.outputs["ingest_id"]))
    commit.after(part)
    finish = place(
        steps.finish_table(table=table, committed_version=commit.outputs["version"]), cpu="4", memory="16Gi", hours=12
    )
    report = place(steps.quality_report(table=table, version=finish.output, summary=commit.outputs["summary"]))
    return namedtuple("Constructed", ["version", "summary", "quality"])(
        finish.output, commit.outputs["summary"], report.outputs["report"]
    )
