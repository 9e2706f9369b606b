"""The demo's page on compression: original, decoded and difference, bits and PSNR at three qualities.

The codec is shown as its training starts (transforms by principal components of some patches of the archive), which
takes seconds; ``eoforge train rs_jcif`` makes a better one.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from eoforge import report
from eoforge.report import Html, concat, element

if TYPE_CHECKING:
    from eoforge.codec.learned.model import Codec
    from eoforge.codec.raster import Raster
    from eoforge.data.loading.batch import PatchBatch
    from eoforge.storage.addresses import TableRef

PAGE = "compression.html"
QUALITIES = (1.0, 4.0, 7.0)
SHOWN, SAMPLE = 3, 96
_AMPLIFIED = 0.1
"""Share of the display range that a difference must reach to be white."""


@dataclass(frozen=True)
class Trial:
    """One rate over the shown patches."""

    name: str
    streams: list[bytes]
    decoded: list[Raster]
    psnr: float
    jpeg2000_ratio: float | None
    milliseconds: float


def write_compression_page(out: Path, table: TableRef, seed: int) -> dict[str, Any]:
    """Writes ``compression.html`` into ``out``.

    Args:
        out: Folder.
        table: Patches.
        seed: Of the choice of patches.

    Returns:
        Bits per pixel and PSNR of each quality, and of the lossless stream, flat.
    """
    from eoforge.codec.raster import from_batch

    sample, shown = _patches(table, seed)
    codec = _codec(sample)
    originals = from_batch(shown, ("s2",))
    curve = _jpeg2000(shown)
    trials = [_learned(codec, originals, quality, curve) for quality in QUALITIES]
    trials.append(_lossless(originals))
    (out / PAGE).write_text(_page(originals, trials, len(sample)))
    figures: dict[str, Any] = {}
    for trial in trials:
        key = trial.name.replace(" ", "_")
        figures[f"compression_{key}_bpp"] = round(_bits_per_pixel(originals, trial.streams), 3)
        if math.isfinite(trial.psnr):
            figures[f"compression_{key}_psnr_db"] = round(trial.psnr, 2)
    return figures


def _patches(table: TableRef, seed: int) -> tuple[PatchBatch, PatchBatch]:
    """Patches that the codec learns from, and other ones to show."""
    from eoforge.data.loading.batch import PatchFilter, read_rows, select_rows
    from eoforge.storage.addresses import open_table

    dataset = open_table(table)
    rng = np.random.Generator(np.random.Philox(key=seed))
    known = select_rows(dataset, PatchFilter(splits=("train",)))
    others = np.setdiff1d(select_rows(dataset, PatchFilter()), known)
    if not len(others):  # an archive without splits
        known, others = known[:-SHOWN], known[-SHOWN:]
    chosen = [np.sort(rng.permutation(rows)[:count]) for rows, count in ((known, SAMPLE), (others, SHOWN))]
    sample, shown = (read_rows(dataset, rows, ("s2",), reference_map=False) for rows in chosen)
    return sample, shown


def _codec(sample: PatchBatch) -> Codec:
    from eoforge.codec.learned.config import CodecConfig
    from eoforge.codec.learned.model import Codec
    from eoforge.codec.raster import from_batch

    stacked: dict[str, list[npt.NDArray[Any]]] = {}
    for raster in from_batch(sample, ("s2",)):
        for band, pixels in raster.bands.items():
            stacked.setdefault(band, []).append(pixels)
    statistics = {band: (float(np.mean(p)), max(float(np.std(p)), 1.0)) for band, p in stacked.items()}
    codec = Codec(CodecConfig.tiny().for_bands(statistics)).eval()
    codec.initialise(sample)
    codec.update()
    return codec


def _learned(codec: Codec, originals: list[Raster], quality: float, curve: list[tuple[float, float]]) -> Trial:
    start = time.perf_counter()
    streams = codec.compress(originals, quality)
    decoded = codec.decompress(streams)
    milliseconds = (time.perf_counter() - start) * 1e3
    psnr = _psnr(originals, decoded)
    ours = 8 * sum(map(len, streams))
    theirs = float(np.interp(psnr, [p for p, _ in curve], [bits for _, bits in curve], left=np.nan, right=np.nan))
    ratio = theirs / ours if math.isfinite(theirs) else None
    return Trial(f"quality {quality:g}", streams, decoded, psnr, ratio, milliseconds)


def _lossless(originals: list[Raster]) -> Trial:
    from eoforge.codec.bounded.streams import compress_bounded, decompress

    start = time.perf_counter()
    streams = [compress_bounded(raster, 0) for raster in originals]
    decoded = list(decompress(streams))
    milliseconds = (time.perf_counter() - start) * 1e3
    return Trial("lossless", streams, decoded, _psnr(originals, decoded), None, milliseconds)


def _jpeg2000(shown: PatchBatch) -> list[tuple[float, float]]:
    """PSNR and bits of JPEG2000 at its best on the same patches, PSNR rising."""
    from eoforge.codec.learned.rate import REFLECTANCE_PEAK
    from eoforge.data.bands import GROUPS, S1_10M
    from eoforge.methods.evaluation.codec_baselines import lossy_codecs, lossy_curve

    rasters = {g.column: getattr(shown, g.column).numpy() for g in GROUPS if g is not S1_10M}
    points = [p for p in lossy_curve(lossy_codecs()["jpeg2000"], rasters) if p.squared_error]
    rated = [(10 * math.log10(REFLECTANCE_PEAK**2 * p.samples / p.squared_error), p.bits) for p in points]
    return sorted(rated)


def _psnr(originals: list[Raster], decoded: list[Raster]) -> float:
    """PSNR over all samples of all patches, peak 10,000."""
    from eoforge.codec.learned.rate import psnr

    errors = [10 ** (-psnr(a, b) / 10) for a, b in zip(originals, decoded, strict=True)]
    mean = float(np.mean(errors))
    return math.inf if mean == 0 else -10 * math.log10(mean)


def _bits_per_pixel(originals: list[Raster], streams: list[bytes]) -> float:
    return 8 * sum(map(len, streams)) / sum(math.prod(raster.shape) for raster in originals)


def _page(originals: list[Raster], trials: list[Trial], sample: int) -> str:
    raw = sum(pixels.nbytes for raster in originals for pixels in raster.bands.values())
    rows = [
        (
            trial.name,
            f"{_bits_per_pixel(originals, trial.streams):.2f}",
            f"{raw / sum(map(len, trial.streams)):.1f} : 1",
            "exact" if math.isinf(trial.psnr) else f"{trial.psnr:.1f} dB",
            "" if trial.jpeg2000_ratio is None else f"{trial.jpeg2000_ratio:.2f} x our bits",
            f"{trial.milliseconds / len(originals):.0f} ms",
        )
        for trial in trials
    ]
    header = (
        "",
        "bits per 10 m pixel, 12 bands",
        "of raw samples",
        "PSNR, peak 10,000",
        "JPEG2000 at that PSNR",
        "time",
    )
    pictures = [_pictures(i, original, trials) for i, original in enumerate(originals)]
    return report.page(
        "Compression",
        "One codec, several rates; streams carry place, bands and the code by which they are found.",
        [
            report.section("Rates", report.table(header, rows)),
            report.section(
                "Original, decoded, difference",
                element(
                    "p",
                    f"Differences are amplified: {_AMPLIFIED:.0%} of the range of the picture is white.",
                    class_="soft",
                ),
                *pictures,
            ),
        ],
        footer=f"The codec is as training starts it: principal components of {sample} patches, no step of training. "
        "Time is encoding and decoding of one patch on this machine.",
    )


def _pictures(number: int, original: Raster, trials: list[Trial]) -> Html:
    cards = [_card(_rgb(original)[0], "original")]
    for trial in trials:
        before, after = _rgb(original, trial.decoded[number])
        difference = np.abs(after.astype(np.int16) - before).astype(np.float64) / (255 * _AMPLIFIED)
        bits = 8 * len(trial.streams[number]) / math.prod(original.shape)
        cards.append(_card(after, f"{trial.name}: {bits:.2f} bits per pixel"))
        cards.append(_card(np.rint(255 * difference.clip(0, 1)).astype(np.uint8), "difference"))
    return concat([element("p", original.patch_id), element("div", concat(cards), class_="row")])


def _card(picture: npt.NDArray[np.uint8], caption: str) -> Html:
    from eoforge.data.loading.plot import thumbnail_png

    return element("div", concat([report.image(thumbnail_png(picture), caption), caption]), class_="card")


def _rgb(*rasters: Raster) -> list[npt.NDArray[np.uint8]]:
    """True colours of rasters of one size, with one stretch for all, so that they can be compared."""
    from eoforge.data.bands import S2_10M
    from eoforge.data.loading.plot import rgb

    stacked = [np.stack([raster.bands[band] for band in S2_10M.bands]) for raster in rasters]
    return np.split(rgb(np.concatenate(stacked, axis=2)), len(rasters), axis=1)
