"""The one way to GDAL (through rasterio): GeoTIFF and JPEG 2000, no network, no file beside the one that was named.

A file or a text of a stranger can ask GDAL to open others: by URLs and ``/vsi`` paths, by sidecar files, by metadata,
by formats that are lists of files. GDAL holds Python's interpreter lock while it waits for them, so it must not wait.
Every process of ours starts with :func:`confine_process`; every opening goes through :func:`session`, for programs
that use the library and loaded GDAL themselves.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from eoforge.errors import DataRefused, LimitExceeded
from eoforge.geo.jp2_head import SIGNATURE, check_jp2
from eoforge.geo.tiff_head import check_expansion, check_head

DRIVERS = ("COG", "GTiff", "JP2OpenJPEG", "MEM", "Memory")
"""Formats that a process of ours has: what is read and written, and two for memory, which open no file."""
CACHE_BYTES = 1 << 26
"""What GDAL may keep of a file's blocks: its own default is a share of the machine's memory."""
MAX_BANDS = 16
JP2 = "JPEG 2000 file; download it again"
"""What a damaged file of that format should have been, for messages."""
_BLOCK_PIXELS = 1 << 20
"""A file's internal tiles are read whole: a tile far larger than its image is an attack, not an image."""
_OTHER_DRIVERS = (
    "AAIGrid,ACE2,ADRG,AIG,AVCBin,AVCE00,AirSAR,BAG,BIGGIF,BLX,BMP,BSB,BT,BYN,CALS,CEOS,COASP,"
    "COSAR,CPG,CTG,CTable2,DAAS,DERIVED,DIMAP,DIPEx,DOQ1,DOQ2,DTED,ECRGTOC,EEDA,EEDAI,EHdr,EIR,"
    "ELAS,ENVI,ERS,ESAT,ESRI Shapefile,ESRIC,ESRIJSON,FAST,FIT,GFF,GIF,GNMDatabase,GNMFile,GPKG,"
    "GRASSASCIIGrid,GRIB,GS7BG,GSAG,GSBG,GSC,GTI,GTX,GXF,GenBin,GeoJSON,GeoJSONSeq,HDF5,HDF5Image,"
    "HF2,HFA,HTTP,ILWIS,IRIS,ISCE,ISG,ISIS2,ISIS3,JAXAPALSAR,JDEM,JPEG,KMLSUPEROVERLAY,"
    "KRO,L1B,LAN,LCP,LOSLAS,Leveller,MAP,MBTiles,MFF,MFF2,MRF,MSGN,MVT,NDF,NGSGEOID,NITF,"
    "NOAA_B,NSIDCbin,NTv2,NWT_GRC,NWT_GRD,OSM,OZI,PAux,PCIDSK,PCRaster,PDF,PDS,PDS4,PLMOSAIC,PNG,"
    "PNM,PRF,R,RIK,RMF,ROI_PAC,RPFTOC,RRASTER,RS2,RST,Rasterlite,S102,S104,S111,SAFE,SAGA,SAR_CEOS,"
    "SDTS,SENTINEL2,SGI,SIGDEM,SNAP_TIFF,SNODAS,SQLite,SRP,SRTMHGT,STACIT,STACTA,TGA,TIL,TSX,"
    "Terragen,TopoJSON,USGSDEM,VICAR,VRT,WCS,WEBP,WMS,WMTS,XPM,XYZ,ZMap,Zarr,netCDF"
)
"""All others of the GDAL that the pinned rasterio brings. GDAL has no allow-list; a test sees that none is missing."""
OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # no sidecars: .ovr, .msk, .aux.xml, .tfw, .IMD, _rpc.txt
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_GEOREF_SOURCES": "INTERNAL",
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",  # no URL has this name, so /vsicurl/, /vsis3/ and the like open nothing
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": "none",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "GDAL_TIFF_INTERNAL_MASK": "YES",  # masks that are written go into the file, since none is read beside it
}
_PROCESS = {**OPTIONS, "PROJ_NETWORK": "OFF", "GDAL_DRIVER_PATH": "disable", "GDAL_SKIP": _OTHER_DRIVERS}


def confine_process() -> None:
    """Settings of GDAL and PROJ for this process and those that it starts; call it before rasterio is loaded."""
    os.environ.update(_PROCESS)


@contextmanager
def session() -> Iterator[None]:
    """A block in which GDAL has our settings, and none of the process's credentials."""
    import rasterio
    from rasterio.session import DummySession

    with rasterio.Env(DummySession(), GDAL_CACHEMAX=CACHE_BYTES, **OPTIONS):  # noqa: TID251
        yield


@contextmanager
def open_geotiff(content: bytes | Path, what: str = "a file", max_pixels: int | None = None) -> Iterator[Any]:
    """A GeoTIFF as rasterio's dataset, of which nothing but the header has been read.

    Args:
        content: The file's bytes, or where it lies on this machine.
        what: What to call it in messages.
        max_pixels: Most pixels of a band, where a reader takes the whole file at once.

    Raises:
        DataRefused: It is empty, no regular file, or no readable GeoTIFF.
        LimitExceeded: It has too many bands, internal tiles far larger than the image, or pixels far larger than it.
    """
    import rasterio
    from rasterio.io import MemoryFile  # noqa: TID251

    if isinstance(content, Path):
        content = content.absolute()  # GDAL reads some relative paths as the name of a format and an address
        if not content.is_file():
            raise DataRefused(f"{what} is no regular file; give a .tif")
        with content.open("rb") as file:
            check_head(file, what)
    else:
        check_head(BytesIO(content), what)
    with ExitStack() as stack:
        stack.enter_context(session())
        with refusing(what):
            if isinstance(content, Path):
                dataset = rasterio.open(content, driver="GTiff")  # noqa: TID251
            else:
                dataset = stack.enter_context(MemoryFile(content)).open(driver="GTiff")
            stack.enter_context(dataset)
            _check_layout(dataset)
        if max_pixels is not None and dataset.height * dataset.width > max_pixels:
            raise LimitExceeded(f"claims {dataset.width} x {dataset.height} pixels; at most {max_pixels} are read")
        pixels = dataset.height * dataset.width * sum(np.dtype(kind).itemsize for kind in dataset.dtypes)
        check_expansion(pixels, content.stat().st_size if isinstance(content, Path) else len(content), what)
        yield dataset


@contextmanager
def open_raster(path: Path, what: str = "a file") -> Iterator[Any]:
    """A GeoTIFF or JPEG 2000 file, told apart by its first bytes; the georeference of the latter is not read.

    The boxes of a JPEG 2000 file hold GML and a small GeoTIFF, which may name other files; a Sentinel-2 product says
    in its own metadata where its rasters lie.

    Raises:
        DataRefused: It is no regular file, or no readable raster of these formats.
        LimitExceeded: It has too many bands, or internal tiles far larger than the image.
    """
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    path = path.absolute()
    if not path.is_file():
        raise DataRefused(f"{what} is no regular file")
    with path.open("rb") as file:
        if file.read(len(SIGNATURE)) != SIGNATURE:
            with open_geotiff(path, what) as dataset:
                yield dataset
            return
        file.seek(0)
        check_jp2(file, path.stat().st_size, what)
    with session(), ExitStack() as stack:
        with refusing(what, JP2), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            dataset = stack.enter_context(
                rasterio.open(path, driver="JP2OpenJPEG", GEOREF_SOURCES="NONE")  # noqa: TID251
            )
            _check_layout(dataset)
        yield dataset


def _check_layout(dataset: Any) -> None:
    if dataset.count > MAX_BANDS:
        raise LimitExceeded(f"a GeoTIFF may have {MAX_BANDS} bands; this one has {dataset.count}")
    for block in set(dataset.block_shapes):
        if math.prod(block) > max(_BLOCK_PIXELS, 2 * dataset.height * dataset.width):
            raise LimitExceeded(
                f"the GeoTIFF of {dataset.height} x {dataset.width} pixels has internal tiles of {block}; "
                f"{_BLOCK_PIXELS} pixels are read, or twice those of the image"
            )


def transform_of(dataset: Any, what: str) -> tuple[float, float, float, float, float, float]:
    """Geotransform ``(a, b, c, d, e, f)`` of an open file.

    Raises:
        DataRefused: A number is not finite.
    """
    found: tuple[float, float, float, float, float, float] = tuple(dataset.transform)[:6]
    if not all(map(math.isfinite, found)):
        raise DataRefused(f"{what} has the transform {found}, whose numbers must be finite; write its place again")
    return found


@contextmanager
def refusing(what: str = "a file", expected: str = "GeoTIFF; give a .tif") -> Iterator[None]:
    """A block in which GDAL's errors are refusals of the file that it reads.

    Not all of rasterio's errors share a base: those of a CRS, of RPCs and of GDAL itself have none with the others.
    """
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import CRSError, RasterioError, RPCError

    try:
        yield
    except (RasterioError, CRSError, RPCError, CPLE_BaseError, UnicodeDecodeError) as error:  # a damaged name of a CRS
        raise DataRefused(f"{what} is not a readable {expected}") from error
