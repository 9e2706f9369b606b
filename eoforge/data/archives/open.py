"""Choice of the reader for an archive: folder, object store, tar files or LMDB."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eoforge.data.archives.base import Archive
from eoforge.data.archives.folders import DirectoryArchive, S3Archive
from eoforge.data.archives.layout import MAIN_FILE, S1_FOLDER, S2_FOLDER
from eoforge.data.archives.lmdbs import LmdbArchive, find_lmdb
from eoforge.data.archives.recognise import LOOKED_AT, names_below, what_is_at
from eoforge.data.archives.tar_source import find_tars
from eoforge.data.archives.tars import TarArchive
from eoforge.data.tiles.archive import TileArchive
from eoforge.data.tiles.options import TileOptions
from eoforge.errors import DataRefused, EoforgeError, NotFound
from eoforge.storage.addresses import is_s3, normalise
from eoforge.storage.objects import ObjectStore


def open_archive(uri: str, *, tiles: TileOptions | None = None, scratch: str | None = None) -> Archive:
    """Archive of any kind, opened for reading.

    Args:
        uri: A folder or ``s3://`` prefix, in the official layout or with the official ``.tar`` or ``.tar.zst`` files,
            or a rico-hdl LMDB (its folder, or its ``data.mdb``).
        tiles: Options of a construction: the address holds tiles, from which the patches are cut.
        scratch: Folder for the index and the unpacked contents of tar files; default ``$EOFORGE_SCRATCH`` or the
            system's temporary folder.

    Raises:
        NotFound: The address does not exist, or is empty.
        DataRefused: It holds something else than an archive, which the message names.
    """
    uri = normalise(uri)
    if tiles is not None:
        return TileArchive(uri, tiles)
    if is_s3(uri):
        store = ObjectStore(uri)
        if store.has_any(S2_FOLDER) or store.has_any(S1_FOLDER):
            return S3Archive(uri)
        if find_tars(uri):
            return TarArchive(uri, scratch=scratch)
        # Without this check, every patch would go to quarantine as missing.
        keys = [key for key, _ in store.ages("", LOOKED_AT)][:LOOKED_AT]
        raise _no_archive(
            uri,
            keys,
            f"expected the prefixes {S2_FOLDER}/ and {S1_FOLDER}/, or {S2_FOLDER}.tar[.zst] and "
            f"{S1_FOLDER}.tar[.zst], with {MAIN_FILE}. LMDBs are read from a local folder.",
        )

    folder = Path(uri)
    if not folder.exists():
        raise NotFound(f"no archive at {uri}: the path does not exist")
    if (folder / S2_FOLDER).is_dir() or (folder / S1_FOLDER).is_dir():
        return DirectoryArchive(uri)
    if folder.is_dir() and find_tars(uri):
        return TarArchive(uri, scratch=scratch)
    if find_lmdb(folder) is not None:
        return LmdbArchive(uri)
    raise _no_archive(
        uri,
        names_below(folder) if folder.is_dir() else [folder.name],
        f"expected the folders {S2_FOLDER} and {S1_FOLDER}, the files {S2_FOLDER}.tar[.zst] and {S1_FOLDER}.tar[.zst], "
        f"or an LMDB (data.mdb), each with {MAIN_FILE}",
    )


def _no_archive(uri: str, names: Sequence[str], expected: str) -> EoforgeError:
    """Error for an address without an archive: absent if nothing is there, refused data otherwise."""
    if not names:
        return NotFound(f"no archive at {uri}: nothing is there; {expected}")
    return DataRefused(f"no archive at {uri}: {what_is_at(uri, names)}; {expected}")
