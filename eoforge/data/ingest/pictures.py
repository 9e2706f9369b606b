"""Pictures of quarantined patches, from the archive that they were read from."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from eoforge.data.archives.open import open_archive
from eoforge.data.bands import S1_BANDS, S2_10M
from eoforge.data.ingest.plan import IngestPlan, load_plan, shard_metadata
from eoforge.data.loading.plot import RGB, rgb, s1_composite
from eoforge.data.records import PatchMeta
from eoforge.data.tables.commit import Job
from eoforge.errors import NotFound

_BAD_PIXEL = (255, 0, 200)
"""Colour of nodata and non-finite pixels: no land cover has it."""


def quarantine_pictures(table: str, ingest_id: str, patch_id: str) -> dict[str, RGB]:
    """Pictures of a patch in quarantine by sensor (``s2``, ``s1``), as far as its files can be decoded.

    Pixels without data are magenta. A missing band is drawn as zeros.

    Args:
        table: Address of the patches table.
        ingest_id: Ingestion that named the finding.
        patch_id: Name of the patch.

    Returns:
        uint8 ``[H, W, 3]`` by sensor.

    Raises:
        NotFound: The ingestion, the patch in it, or the archive does not exist any more.
        UsageError: The archive is of a kind without one file per band.
    """
    job, plan = load_plan(table, ingest_id)
    bands = open_archive(plan.archive, tiles=plan.tiles).rasters(_row(job, plan, patch_id))
    pictures: dict[str, RGB] = {}
    if optical := _stacked(bands, S2_10M.bands, np.dtype(np.uint16)):
        pictures["s2"] = rgb(optical[0])
        pictures["s2"][optical[1]] = _BAD_PIXEL
    if radar := _stacked(bands, S1_BANDS, np.dtype(np.float32)):
        pictures["s1"] = s1_composite(radar[0])
        pictures["s1"][radar[1]] = _BAD_PIXEL
    return pictures


def _row(job: Job, plan: IngestPlan, patch_id: str) -> PatchMeta:
    """Metadata row of a patch: shards are ranges of the sorted names, so that few of them are read."""
    low, high = 0, plan.shards - 1
    while low <= high:
        middle = (low + high) // 2
        rows = shard_metadata(job, middle)
        names = rows.table["patch_id"].to_pylist()
        if patch_id in names:
            return rows[names.index(patch_id)]
        low, high = (low, middle - 1) if patch_id < names[0] else (middle + 1, high)
    raise NotFound(f"ingestion {job.job_id} has no patch {patch_id!r}")


def _stacked(
    bands: dict[str, npt.NDArray[Any]], names: tuple[str, ...], dtype: np.dtype[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]] | None:
    """Bands as one array ``[C, H, W]``, and the mask ``[H, W]`` of pixels without data; None if there is no band.

    Files of another shape than the first one are taken as missing.
    """
    present = {name: bands[name] for name in names if name in bands}
    if not present:
        return None
    shape = next(iter(present.values())).shape
    with np.errstate(invalid="ignore"):
        held = {name: pixels for name, pixels in present.items() if pixels.shape == shape}
        bad = np.any([~np.isfinite(p) if dtype.kind == "f" else p == 0 for p in held.values()], axis=0)
        stack = np.stack([np.nan_to_num(held[n]).astype(dtype) if n in held else np.zeros(shape, dtype) for n in names])
    return stack, bad
