"""The official reBEN layout: names of folders and files, size limits, and the reading of one file.

::

    BigEarthNet-S2/<tile>/<patch_id>/<patch_id>_<band>.tif            12 files a patch (.tiff is accepted)
    BigEarthNet-S1/<scene>/<s1_name>/<s1_name>_{VV,VH}.tif            2 files a patch
    Reference_Maps/<tile>/<patch_id>/<patch_id>_reference_map.tif     1 file a patch, may be absent
    metadata.parquet, metadata_for_patches_with_snow_cloud_or_shadow.parquet (may be absent)
"""

from __future__ import annotations

import errno
import os

from eoforge.data.bands import S1_BANDS, S2_BANDS
from eoforge.data.names import scene_of, tile_of
from eoforge.data.records import PatchMeta
from eoforge.errors import DataRefused, LimitExceeded, NotFound, StoreError
from eoforge.storage.objects import ObjectStore

S2_FOLDER = "BigEarthNet-S2"
S1_FOLDER = "BigEarthNet-S1"
MAP_FOLDER = "Reference_Maps"
EXTENSIONS = (".tif", ".tiff")
MAIN_FILE = "metadata.parquet"
SNOW_CLOUD_FILE = "metadata_for_patches_with_snow_cloud_or_shadow.parquet"
REFERENCE_MAP = "reference_map"
"""Name of the land-cover map, used beside the band names."""
ALL_FILES = (*S2_BANDS, *S1_BANDS, REFERENCE_MAP)

MAX_FILE_BYTES = 1 << 24
"""Largest raster file that is read; the largest official one has 58,024 bytes."""
MAX_METADATA_BYTES = 1 << 30

# Most official files fit; larger buffers cost an allocation that the kernel has to map.
_FIRST_READ = 1 << 16
_FILE_ERRORS = {errno.EISDIR, errno.EACCES, errno.EPERM, errno.EIO, errno.ELOOP}


def path_of(meta: PatchMeta, band: str) -> str:
    """Path of the file of a band (or of ``reference_map``) below the root of the archive, without extension."""
    if band in S1_BANDS:
        name = meta.radar_name
        return f"{S1_FOLDER}/{scene_of(name)}/{name}/{name}_{band}"
    name = meta.patch_id
    folder = MAP_FOLDER if band == REFERENCE_MAP else S2_FOLDER
    return f"{folder}/{tile_of(name)}/{name}/{name}_{band}"


def read_object(store: ObjectStore, key: str, limit: int) -> bytes | None:
    """Bytes of an object; None if the object does not exist.

    Raises:
        DataRefused: The object is larger than ``limit``.
        StoreError: The object store fails.
    """
    try:
        return store.get(key, limit)
    except NotFound:
        return None
    except LimitExceeded as error:
        raise DataRefused(str(error)) from error


def read_file(path: str, limit: int) -> bytes | None:
    """Bytes of a local file; None if the file does not exist.

    Raises:
        DataRefused: The file is larger than ``limit``, or exists and cannot be read.
        StoreError: The operating system fails for another reason than the file itself.
    """
    try:
        # Non-blocking: a named pipe in place of a file cannot hang the reader.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            data = os.read(descriptor, min(_FIRST_READ, limit))
            if len(data) < _FIRST_READ:
                return data
            size = os.fstat(descriptor).st_size
            if size > limit:
                raise DataRefused(f"{path} has {size} bytes; at most {limit} are read")
            with os.fdopen(os.dup(descriptor), "rb") as file:
                return data + file.read(limit - len(data))
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno in _FILE_ERRORS:
            raise DataRefused(f"{path} cannot be read: {error.strerror}") from error
        raise StoreError(f"cannot read {path}: {error}. Check limits and mounts of this machine.") from error
