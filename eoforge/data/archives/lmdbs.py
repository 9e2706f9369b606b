"""Archives converted by rico-hdl: an LMDB whose values are safetensors.

``patch_id`` holds B01..B12, ``s1_name`` holds VV and VH, ``<patch_id>_reference_map`` holds Data. Bands are read by
name: their order inside a value is arbitrary. The conversion drops the georeference, which is rebuilt from the patch
name; labels come from the official metadata, which must lie beside the database or one folder up. A value of ours may
name its offset of reflectance (``BOA_ADD_OFFSET``) in the metadata of safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from eoforge.data.archives.base import Archive
from eoforge.data.archives.geotiff import OFFSET_TAG, BandRaster, number_of
from eoforge.data.archives.layout import MAIN_FILE, MAX_FILE_BYTES, MAX_METADATA_BYTES, REFERENCE_MAP, read_file
from eoforge.data.archives.lmdb_file import LmdbFile
from eoforge.data.archives.metadata import MetadataRows, NoMetadata, read_metadata
from eoforge.data.archives.validate import read_patch
from eoforge.data.bands import GROUP_OF, S1_BANDS, S2_10M
from eoforge.data.records import PatchMeta, ReadResult
from eoforge.errors import DataRefused, NotFound

_DATA_FILE = "data.mdb"


def find_lmdb(path: Path) -> Path | None:
    """Folder of the database at ``path``: a folder, its ``data.mdb``, or the only subfolder with a ``data.mdb``."""
    if path.name == _DATA_FILE and path.is_file():
        return path.parent
    if not path.is_dir():
        return None
    found = [path] if (path / _DATA_FILE).is_file() else sorted(p.parent for p in path.glob(f"[!.]*/{_DATA_FILE}"))
    return found[0] if len(found) == 1 else None


class LmdbArchive(Archive):
    """Archive in a rico-hdl LMDB, with the official metadata beside it."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        folder = find_lmdb(Path(self.uri))
        if folder is None:
            raise NotFound(f"no LMDB at {self.uri}: expected {_DATA_FILE} in that folder or in one subfolder")
        self._folder = folder
        self._metadata_folder = next((f for f in (folder, folder.parent) if (f / MAIN_FILE).is_file()), folder)

    def metadata(self) -> MetadataRows:
        """See :class:`eoforge.data.archives.base.Archive`."""
        try:
            return read_metadata(
                lambda name: read_file(str(self._metadata_folder / name), MAX_METADATA_BYTES),
                str(self._metadata_folder),
            )
        except NoMetadata as error:
            raise NoMetadata(
                f"an LMDB holds no labels: put the official {MAIN_FILE} into {self._folder} or {self._folder.parent}"
            ) from error

    def present(self, rows: MetadataRows) -> npt.NDArray[np.bool_]:
        """See :class:`eoforge.data.archives.base.Archive`: the rows whose optical bands have a value."""
        found = (self._database.has(patch_id.encode()) for patch_id in rows.table["patch_id"].to_pylist())
        return np.fromiter(found, dtype=bool, count=len(rows))

    def read(self, rows: Sequence[PatchMeta]) -> Iterator[ReadResult]:
        """See :class:`eoforge.data.archives.base.Archive`.

        Raises:
            DataRefused: The database is damaged.
        """
        # Opened before any patch is read: a damaged database must not count as a defect of the first patch.
        database = self._database
        for meta in rows:
            patch = _LmdbPatch(self.uri, database, meta)
            yield read_patch(meta, patch.load, patch.key_of, str(self._metadata_folder / MAIN_FILE))

    @cached_property
    def _database(self) -> LmdbFile:
        return LmdbFile(self._folder / _DATA_FILE)  # opened in the process that reads


class _Value(NamedTuple):
    """Tensors of a key by name, and the offset of reflectance that the value names."""

    tensors: dict[str, npt.NDArray[Any]]
    boa_offset: float | None


def _read_value(database: LmdbFile, key: str) -> _Value | None:
    """Value of a key; None if the key is absent.

    Raises:
        DataRefused: The value is too large or no safetensors file of a known dtype.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    value = database.get(key.encode(), MAX_FILE_BYTES)
    if value is None:
        return None
    try:
        tensors: dict[str, npt.NDArray[Any]] = load(value)
    except (SafetensorError, KeyError, ValueError) as error:
        raise DataRefused(f"{key}: no safetensors value of a known dtype: {error}") from error
    head = value[8 : 8 + int.from_bytes(value[:8], "little")]  # of which the library drops the metadata
    named = json.loads(head).get("__metadata__", {}) if b"__metadata__" in head else {}
    return _Value(tensors, number_of(named.get(OFFSET_TAG), key))


class _LmdbPatch:
    """Cached values of one patch: each value holds several bands and is read once."""

    def __init__(self, uri: str, database: LmdbFile, meta: PatchMeta) -> None:
        self._uri = uri
        self._database = database
        self._meta = meta
        self._values: dict[str, _Value | None] = {}

    def _key(self, band: str) -> str:
        if band == REFERENCE_MAP:
            return f"{self._meta.patch_id}_{REFERENCE_MAP}"
        return self._meta.radar_name if band in S1_BANDS else self._meta.patch_id

    def key_of(self, band: str) -> str:
        return f"{self._uri}#{self._key(band)}"

    def load(self, band: str) -> BandRaster | None:
        key = self._key(band)
        if key not in self._values:
            self._values[key] = _read_value(self._database, key)
        value = self._values[key]
        name = "Data" if band == REFERENCE_MAP else band
        if value is None or name not in value.tensors:
            return None
        place = self._meta.names.footprint
        metres = float((S2_10M if band == REFERENCE_MAP else GROUP_OF[band]).resolution)
        transform = (metres, 0.0, float(place.ulx), 0.0, -metres, float(place.uly))
        return BandRaster(value.tensors[name], place.epsg, transform, None, boa_offset=value.boa_offset)
