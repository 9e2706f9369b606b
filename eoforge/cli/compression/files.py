"""Compression and decompression of files, folders and tables."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eoforge.cli.compression.jobs import Outcomes, files_below, require_folder, target_of_file
from eoforge.errors import NotFound, UsageError

if TYPE_CHECKING:
    from eoforge.codec.coder import Rate
    from eoforge.codec.container import Header
    from eoforge.codec.geotiff import GeoTiff
    from eoforge.codec.raster import Raster
    from eoforge.codec.tiles import Block, Source
    from eoforge.progress import Tracker

SUFFIX = ".eofc"
TIFFS = (".tif", ".tiff")
_MAP = "reference_map"
_BATCH = 16


@dataclass(frozen=True)
class Compressed:
    """Summary of a compression; ``raw_bytes`` is the size of all samples in memory."""

    streams: int
    raw_bytes: int
    stream_bytes: int
    ratio: float
    bits_per_sample: float
    target: str


def is_table(text: str) -> bool:
    """Whether a source is a Lance table."""
    from eoforge.storage.addresses import TableRef, is_s3, table_exists

    ref = TableRef.parse(text)
    return is_s3(text) or (Path(ref.uri).is_dir() and table_exists(ref.uri))


def compress_table(source: str, target: str, bundle: str, rate: Rate, device: str | None) -> Any:
    """Compression of ``patches.lance`` to ``streams.lance``, exactly once."""
    from eoforge.index.streams import compress_archive
    from eoforge.methods.codecs import open_archiver
    from eoforge.storage.addresses import TableRef

    return compress_archive(bundle, TableRef.parse(source), target, rate, *open_archiver(bundle, device))


def compress_files(
    source: Path, target: str, bundle: str | None, rate: Rate, device: str | None, *, one_bound: bool = False
) -> tuple[Compressed, Outcomes]:
    """Compression of GeoTIFFs of any size to streams, with one tile in memory at a time.

    Args:
        source: GeoTIFF, or folder: files named ``<name>_<band>.tif`` form one raster ``<name>``, any other file is a
            raster of its own. Hidden files are left out.
        target: Path of the stream, or folder for it or for the streams of a folder.
        bundle: Run bundle of the codec, where the rate needs one.
        rate: Rate of all streams.
        device: Torch device of the codec.
        one_bound: Whether the error bound is one number in the unit of one sensor; rasters of both are refused.

    Returns:
        Summary, and the files of a folder that failed.

    Raises:
        NotFound: There is no GeoTIFF.
        UsageError: A raster of both sensors needs a bound for each.
    """
    from eoforge.codec.container import LIMITS
    from eoforge.codec.geotiff import open_raster
    from eoforge.codec.raster import modalities_of
    from eoforge.methods.codecs import open_coder
    from eoforge.progress import track

    jobs = list(_rasters_of(source))
    if not jobs:
        raise NotFound(f"no GeoTIFF at {source}: expected a .tif, a folder with some, or a Lance table")
    outcomes = Outcomes(alone=source.is_file())
    folder = Path(target)
    single = target_of_file(target, f"{source.stem}{SUFFIX}") if outcomes.alone else None
    if single is None:
        require_folder(folder)
    coder = open_coder([bundle] if bundle and rate.learned else [], device)
    coder.check(rate)
    streams = raw = made = samples = 0
    with track("compressing tiles") as progress:
        for name, files in jobs:
            with (
                outcomes.one(name, [file.content for file in files if isinstance(file.content, Path)]),
                open_raster(files, Path(name).name, max_pixels=LIMITS.max_pixels, exact=not rate.learned) as raster,
            ):
                if one_bound and len(modalities_of(raster.bands)) > 1:
                    raise UsageError(f"{name} holds both sensors, whose units differ: --max-error DN,dB, such as 8,0.5")
                outcomes.warn(name, raster.warnings)
                path = single or folder / f"{name}{SUFFIX}"
                with atomic_path(path) as unfinished, unfinished.open("w+b") as file:
                    header = coder.write(ReportingSource(raster, progress), rate, file)
                streams += 1
                made += path.stat().st_size
                samples += header.samples
                raw += header.raw_bytes
    ratio, bits = (round(raw / made, 2), round(8 * made / samples, 4)) if streams else (0.0, 0.0)
    return Compressed(streams, raw, made, ratio, bits, str(single or folder)), outcomes


def decompress_files(
    source: Path, target: str, bundle: str | None, device: str | None
) -> tuple[dict[str, Any], Outcomes]:
    """Decompression of streams to cloud-optimised GeoTIFFs, with one tile in memory at a time.

    Returns:
        Summary, and the streams of a folder that failed.

    Raises:
        NotFound: There is no stream.
    """
    from eoforge.codec.container import Kind, inspect
    from eoforge.codec.slices import FileSlice
    from eoforge.methods.codecs import open_coder
    from eoforge.progress import track

    streams = files_below(source, [SUFFIX]) if source.is_dir() else [source] if source.is_file() else []
    if not streams:
        raise NotFound(f"no stream at {source}: expected a {SUFFIX} file, a folder with some, or a table of streams")
    outcomes = Outcomes(alone=source.is_file())
    out = Path(target)
    if not outcomes.alone or out.suffix.lower() not in TIFFS or out.is_dir():
        require_folder(out)
    coder = open_coder([bundle] if bundle else [], device)
    done = files = 0
    with track("decoding tiles") as progress:
        for path in streams:
            inside = path.relative_to(source).with_suffix("") if source.is_dir() else Path(path.stem)
            with outcomes.one(str(inside), [path]), path.open("rb") as file:
                stream = FileSlice(file)
                header = inspect(stream, coder.limits)
                if header.kind is Kind.LEARNED and not coder.codecs:
                    raise UsageError(f"{path} was made by the codec of bundle {header.bundle}; name it with --bundle")
                paths = _cog_paths(header.bands, out, inside, single=outcomes.alone)
                _write_cogs(paths, header, _reported(coder.blocks(stream), progress))
                done, files = done + 1, files + len(paths)
    return {"streams": done, "files": files, "target": target}, outcomes


def decompress_table(source: str, target: Path, patch_ids: Sequence[str], device: str | None) -> dict[str, Any]:
    """Decompression of patches of a table of streams to cloud-optimised GeoTIFFs; the table names its codec.

    Raises:
        UsageError: The table holds no streams.
        NotFound: A patch is not in the table.
    """
    from eoforge.codec.tiles import Block
    from eoforge.index.code_table import CodeTableInfo
    from eoforge.index.streams import StreamReader, holds_streams
    from eoforge.methods import get_method
    from eoforge.methods.codecs import coder_of
    from eoforge.progress import track
    from eoforge.storage.addresses import TableRef, open_table

    table = open_table(TableRef.parse(source))
    if not holds_streams(table):
        raise UsageError(f"{source} is not a table of streams; make one with `eoforge compress`")
    info = CodeTableInfo.of(table.schema, source)
    encoder = get_method(info.method).load(info.open_bundle(), device)
    reader = StreamReader(table, coder_of(encoder))
    selected = patch_ids or sorted(set(table.to_table(columns=["patch_id"]).column("patch_id").to_pylist()))
    files = 0
    with track("decoding patches", total=len(selected)) as progress:
        for start in range(0, len(selected), _BATCH):
            part = selected[start : start + _BATCH]
            found = reader.rasters(part, encoder.modalities)
            missing = [patch_id for patch_id in part if patch_id not in found]
            if missing:
                raise NotFound(f"{source} holds no stream of patch {missing[0]!r}")
            for patch_id, rasters in found.items():
                for raster in rasters.values():
                    paths = _cog_paths(raster.bands, target, Path(patch_id), single=False)
                    _write_cogs(paths, raster, [Block(0, 0, raster.bands, raster.masks)])
                    files += len(paths)
            progress.advance(len(part))
    return {"patches": len(selected), "files": files, "target": str(target)}


def _rasters_of(source: Path) -> Iterator[tuple[str, list[GeoTiff]]]:
    """Name (with its folders) and files of each raster."""
    from eoforge.codec.geotiff import GeoTiff
    from eoforge.codec.raster import BAND_ORDER

    if source.is_file():
        yield source.stem, [GeoTiff(source)]
        return
    groups: dict[str, list[GeoTiff]] = {}
    for path in files_below(source, TIFFS):
        inside = path.relative_to(source).with_suffix("")
        name, _, band = inside.name.rpartition("_")
        if inside.name.endswith(_MAP):
            continue  # the land-cover map is not a band
        if name and band in BAND_ORDER:
            groups.setdefault(str(inside.with_name(name)), []).append(GeoTiff(path, (band,)))
        else:
            groups.setdefault(str(inside), []).append(GeoTiff(path))
    yield from groups.items()


class ReportingSource:
    """Source that reports progress for each window."""

    def __init__(self, source: Source, progress: Tracker) -> None:
        self._source, self._progress = source, progress
        self.bands, self.shape = source.bands, source.shape
        self.georeference, self.patch_id, self.profile = source.georeference, source.patch_id, source.profile

    def window(self, row: int, column: int, height: int, width: int) -> Raster:
        """Window of the wrapped source."""
        self._progress.advance()
        return self._source.window(row, column, height, width)


def _reported(blocks: Iterable[Block], progress: Tracker) -> Iterator[Block]:
    for block in blocks:
        yield block
        progress.advance()


def _cog_paths(bands: Iterable[str], target: Path, name: Path, *, single: bool) -> dict[str, Path]:
    """Mapping grid -> path; a raster of a single grid is written to ``target`` itself if ``target`` names a file."""
    from eoforge.codec.cog import grids_of

    grids = list(grids_of(bands))
    named = single and target.suffix.lower() in TIFFS and not target.is_dir()
    base = target.with_suffix("") if named else target / name
    return {
        g: base.with_name(f"{base.name}.tif" if named and len(grids) == 1 else f"{base.name}_{g}.tif") for g in grids
    }


def _write_cogs(paths: Mapping[str, Path], like: Header | Raster, blocks: Iterable[Block]) -> None:
    from eoforge.codec.cog import write_cog_files

    with ExitStack() as stack:
        unfinished = {grid: str(stack.enter_context(atomic_path(path)).absolute()) for grid, path in paths.items()}
        write_cog_files(unfinished, like.bands, like.shape, like.georeference, blocks, like.profile)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Temporary path whose file is renamed to ``path`` when the block ends without an error.

    The temporary file lies in a hidden folder beside ``path``, under a name that no search for streams or GeoTIFFs
    matches, so a killed process leaves nothing that looks complete.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".eoforge-", dir=path.parent) as folder:
        unfinished = Path(folder) / "unfinished"
        yield unfinished
        unfinished.replace(path)
