"""Plan of a construction; its shards, commit and report are those of ingestion."""

# mypy: disable-error-code="valid-type,call-arg,empty-body,return-value"
# kfp reads named outputs from a NamedTuple call in the annotation, which mypy takes for an invalid type.

from typing import NamedTuple

from pipelines.components._component import component


# kfp.local iterates only over a task output that is called "Output".
@component
def plan_construct(
    tiles: str,
    table: str,
    boa_offset: str,
    radar: str,
    radar_scale: str,
    radar_days: int,
    land_cover: str,
    country: str,
    shard_rows: int,
    strict: bool,
) -> NamedTuple("Plan", [("ingest_id", str), ("Output", list[str])]):
    """Plan of the patches of whole tiles, after a check of every file; empty texts stand for what is not given.

    Args:
        tiles: Path or s3:// prefix with level-2A products.
        table: Lance table to create or grow, a path or s3:// URI.
        boa_offset: Offset of stored reflectances, -1000 or 0; empty for that of the product.
        radar: Folder of terrain-corrected Sentinel-1 scenes.
        radar_scale: What the radar files hold, db or linear.
        radar_days: Largest time between both sensors in days.
        land_cover: GeoPackage or GeoTIFF of CLC level-3 codes.
        country: Country of all patches.
        shard_rows: Limit of patches per shard, and minimum of patches per range.
        strict: Refuse all tiles if one patch is dropped.

    Returns:
        ingest_id: Id of the plan and the manifests in the store; the same tiles and options give the same id.
        Output: At most 64 shard ranges, each "ingest id:first shard:number of shards".
    """
    from eoforge.data.ingest.run import plan_ingest
    from eoforge.data.tiles.options import options_of
    from pipelines.ranges import range_limit, shard_ranges

    options = options_of(boa_offset, radar, radar_scale, int(radar_days), land_cover, country)
    plan = plan_ingest(tiles, table, shard_rows=int(shard_rows), strict=strict, workers=4, tiles=options)
    print(f"{plan.rows} patches in {plan.shards} shards, {plan.edges} incomplete ones, ingestion {plan.ingest_id}")
    ranges = shard_ranges(plan.ingest_id, plan.shards, range_limit(plan.rows, int(shard_rows)))
    return (plan.ingest_id, ranges)
