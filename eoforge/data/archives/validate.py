"""Validation of one patch: rasters become a :class:`PatchPair`, or a list of defects.

All readers (folders, tar files, LMDB) use :func:`read_patch`, so the same rules apply to each. Validation does not stop
at the first defect: one run names all of them. docs/data.md explains the reasons.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from eoforge.data.archives.geotiff import BandRaster
from eoforge.data.archives.layout import REFERENCE_MAP
from eoforge.data.archives.offset import may_carry_offset, named_offset, without_offset
from eoforge.data.bands import GROUPS, MODALITIES, S1_10M, S2_10M, BandGroup
from eoforge.data.labels import CLASSES, CLC_TO_CLASS, INDEX, KNOWN_CLC, mask_of, names_of
from eoforge.data.names import TileName
from eoforge.data.records import Defect, PatchMeta, PatchPair, ReadResult, Reason
from eoforge.data.split import official_split
from eoforge.errors import DataRefused
from eoforge.geo.footprint import Footprint

_TOLERANCE_M = 1e-3
_CRS_SHOWN = 120
"""Characters of a WKT in a message."""
_CODES = 1 << 16


class Refused(DataRefused):
    """Error of a raster that contradicts the patch name or the format, with its reason code."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.code = reason


@dataclass(slots=True)
class _Findings:
    """Defects of one patch while it is validated: one entry per reason, further details appended."""

    patch_id: str
    details: dict[Reason, list[str]]
    files: dict[Reason, str]

    def add(self, reason: Reason, detail: str, file: str) -> None:
        self.details.setdefault(reason, []).append(detail)
        self.files.setdefault(reason, file)

    def defects(self) -> list[Defect]:
        return [Defect(self.patch_id, r, "; ".join(texts), self.files[r]) for r, texts in self.details.items()]


def read_patch(
    meta: PatchMeta,
    load: Callable[[str], BandRaster | None],
    file_of: Callable[[str], str],
    metadata_file: str,
) -> ReadResult:
    """Validated patch of a metadata row.

    Args:
        meta: The metadata row.
        load: Returns the raster of a band (or ``reference_map``), None if the archive lacks it; raises DataRefused if
            it cannot be decoded.
        file_of: Returns the file name of a band, for error messages.
        metadata_file: File name of the metadata, for error messages.

    Returns:
        The pair, or the defects that exclude it; either may have warnings.
    """
    findings = _Findings(meta.patch_id, {}, {})
    footprint = _check_row(meta, findings, metadata_file)
    if footprint is None:
        return ReadResult(meta, None, findings.defects())
    stacks: dict[str, npt.NDArray[Any]] = {}
    for modality, absent in (("s2", Reason.S2_MISSING), ("s1", Reason.S1_MISSING)):
        _load_modality(modality, absent, meta, load, file_of, findings, stacks)
    reference_map = _load_map(meta, footprint, load, file_of, findings)
    defects = findings.defects()
    if any(d.fatal for d in defects):
        return ReadResult(meta, None, defects)
    arrays = {g.column: stacks[g.column] for g in GROUPS}
    pair = PatchPair(meta=meta, reference_map=reference_map, **arrays)
    return ReadResult(meta, pair, defects)


def is_readable(meta: PatchMeta) -> bool:
    """Whether :func:`read_patch` loads rasters of this row: its names are well formed and its id is not repeated."""
    return _check_row(meta, _Findings(meta.patch_id, {}, {}), "") is not None


def _check_row(meta: PatchMeta, findings: _Findings, file: str) -> Footprint | None:
    """Footprint of a row after the checks of names, labels and split; None if its rasters are not to be read."""
    if meta.repeated:
        findings.add(Reason.DUPLICATE_ID, "an earlier metadata row has the same patch_id; the first is kept", file)
        return None
    try:
        names = meta.names
    except DataRefused as error:
        findings.add(Reason.BAD_NAME, str(error), file)
        return None
    patch, s1 = names.patch, names.s1
    if s1 is None or (s1.mgrs, s1.x, s1.y) != (patch.tile.mgrs, patch.x, patch.y):
        findings.add(Reason.BAD_NAME, f"s1_name {meta.s1_name} names another cell than patch_id", file)
    unknown = [name for name in meta.labels or () if name not in INDEX]
    if unknown or not meta.labels:
        detail = f"expected 1..{len(CLASSES)} of the reBEN classes, got {unknown or 'no label'}"
        findings.add(Reason.UNKNOWN_LABEL, detail, file)
    expected = official_split(patch.x, patch.y)
    if meta.split != expected:
        detail = f"metadata say {meta.split!r}, cell ({patch.x}, {patch.y}) belongs to {expected!r}"
        findings.add(Reason.SPLIT_MISMATCH, detail, file)
    return names.footprint


def _load_modality(
    modality: str,
    absent: Reason,
    meta: PatchMeta,
    load: Callable[[str], BandRaster | None],
    file_of: Callable[[str], str],
    findings: _Findings,
    stacks: dict[str, npt.NDArray[Any]],
) -> None:
    missing = []
    bands, footprint, tile = MODALITIES[modality], meta.names.footprint, meta.names.patch.tile
    for group in GROUPS:
        if group.bands[0] not in bands:
            continue
        stack = stacks[group.column] = np.empty(group.shape, dtype=group.dtype)
        for slot, band in zip(stack, group.bands, strict=True):
            try:
                raster = load(band)
                if raster is None:
                    missing.append(band)
                else:
                    _check_raster(raster, band, group, footprint)
                    if modality == "s2":
                        raster = _corrected(raster, band, tile, file_of, findings)
                    slot[...] = raster.pixels
            except DataRefused as error:
                reason = error.code if isinstance(error, Refused) else Reason.UNREADABLE
                findings.add(reason, str(error), file_of(band))
    if len(missing) == len(bands):
        findings.add(absent, f"none of the bands {', '.join(bands)} exists", file_of(bands[0]))
    else:
        for band in missing:
            findings.add(Reason.MISSING_BAND, f"{band} does not exist", file_of(band))


def _check_raster(raster: BandRaster, band: str, group: BandGroup, footprint: Footprint) -> None:
    """Raises Refused if a band contradicts the patch name or the format."""
    _check_grid(raster, band, group.size, group.dtype, group.resolution, footprint)
    pixels = raster.pixels
    if group is S1_10M:
        if not np.isfinite(pixels).all():
            count = int((~np.isfinite(pixels)).sum())
            raise Refused(Reason.NONFINITE_S1, f"{band}: {count} pixels are NaN or infinite")
    elif not pixels.all():
        count = int((pixels == 0).sum())
        raise Refused(Reason.NODATA_S2, f"{band}: {count} pixels are 0, which means nodata")


def _corrected(
    raster: BandRaster, band: str, tile: TileName, file_of: Callable[[str], str], findings: _Findings
) -> BandRaster:
    """Raster without the offset of processing baseline 04.00; raises Refused if it is not known whether it has one."""
    try:
        offset = named_offset(raster)
        if offset:
            raster = replace(raster, pixels=without_offset(raster.pixels, offset))
            findings.add(Reason.OFFSET_REMOVED, f"{band}: {offset:+g} was applied", file_of(band))
        elif offset is None and may_carry_offset(tile):
            raise Refused(
                Reason.OFFSET_UNKNOWN,
                f"{band}: products of baseline 04.00 and later (this one is {tile.baseline / 100:05.2f}, acquired "
                f"{tile.acquired:%Y-%m-%d}) store 1,000 more than reflectance x 10,000, and the file does not say "
                "whether it does: set its offset, or the tag BOA_ADD_OFFSET (-1000, or 0 if it was taken out)",
            )
    except Refused:
        raise
    except DataRefused as error:
        raise Refused(Reason.OFFSET_UNKNOWN, f"{band}: {error}") from error
    return raster


def _check_grid(raster: BandRaster, what: str, size: int, dtype: str, resolution: int, footprint: Footprint) -> None:
    pixels = raster.pixels
    if pixels.shape != (size, size):
        raise Refused(Reason.WRONG_SHAPE, f"{what}: expected {size} x {size} pixels, got {pixels.shape}")
    if pixels.dtype != dtype:
        raise Refused(Reason.WRONG_DTYPE, f"{what}: expected {dtype}, got {pixels.dtype}")
    if raster.epsg != footprint.epsg:
        found = (raster.crs or "no CRS")[:_CRS_SHOWN] if raster.epsg is None else f"EPSG:{raster.epsg}"
        raise Refused(
            Reason.CRS_MISMATCH, f"{what}: the patch name implies EPSG:{footprint.epsg}, the file has {found}"
        )
    expected = (float(resolution), 0.0, float(footprint.ulx), 0.0, -float(resolution), float(footprint.uly))
    if raster.transform != expected and not all(
        abs(a - b) < _TOLERANCE_M for a, b in zip(raster.transform, expected, strict=True)
    ):
        detail = f"{what}: the patch name implies the transform {expected}, the file {raster.transform}"
        raise Refused(Reason.TRANSFORM_MISMATCH, detail)


def _load_map(
    meta: PatchMeta,
    footprint: Footprint,
    load: Callable[[str], BandRaster | None],
    file_of: Callable[[str], str],
    findings: _Findings,
) -> npt.NDArray[np.uint16] | None:
    try:
        raster = load(REFERENCE_MAP)
        if raster is None:
            return None
        _check_grid(raster, REFERENCE_MAP, S2_10M.size, "uint16", S2_10M.resolution, footprint)
        _check_labels(raster.pixels, meta.labels or ())
    except DataRefused as error:
        reason = error.code if isinstance(error, Refused) else Reason.UNREADABLE
        findings.add(reason, str(error), file_of(REFERENCE_MAP))
        return None
    return raster.pixels


def _check_labels(reference_map: npt.NDArray[np.uint16], labels: tuple[str, ...]) -> None:
    """Raises Refused if map and labels disagree: one 10 m pixel of a class implies its label, whatever its area."""
    shown = mask_of_map(reference_map)
    known = [name for name in labels if name in INDEX]
    if len(known) == len(labels) and shown != mask_of(known):
        only_map = names_of(shown & ~mask_of(known))
        only_labels = names_of(mask_of(known) & ~shown)
        detail = f"labels without a pixel in the map: {only_labels}; classes of the map without label: {only_map}"
        raise Refused(Reason.LABEL_MISMATCH, detail)


def mask_of_map(reference_map: npt.NDArray[np.uint16]) -> int:
    """Label mask of the classes in a map ``[H, W]`` of CLC codes.

    Raises:
        Refused: A value is no CLC level-3 code.
    """
    present = np.zeros(_CODES, dtype=bool)
    present[reference_map.ravel()] = True
    return _classes_of(tuple(np.flatnonzero(present).tolist()))


@lru_cache(maxsize=4096)
def _classes_of(codes: tuple[int, ...]) -> int:
    unknown = [code for code in codes if code not in KNOWN_CLC]
    if unknown:
        raise Refused(Reason.UNKNOWN_CLC, f"{unknown[:20]} are no CORINE Land Cover level-3 codes")
    return mask_of({CLASSES[CLC_TO_CLASS[code]] for code in codes if code in CLC_TO_CLASS})
