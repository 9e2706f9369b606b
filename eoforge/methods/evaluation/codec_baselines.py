"""Rate and distortion of standard codecs on patches: JPEG2000, JPEG-XL, AVIF, WebP, zstd, by imagecodecs.

Every figure is a best case, a bound that a user of these codecs seldom reaches. A lossy codec encodes every band group
of every patch at each of its settings; then, for each slope lambda, every group of every patch takes the setting that
minimises ``squared error + lambda * bits`` (Lagrangian allocation of bits over bands and patches). JPEG2000 codes a
group as the components of one raw codestream (no boxes), once as stored and once after a KLT between the group's bands,
whose matrix comes from the training split and is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eoforge.data.bands import S1_10M, S2_10M, BandGroup
from eoforge.methods.evaluation.fidelity import Rasters, groups_of

Pixels = npt.NDArray[np.generic]
Encode = Callable[[npt.NDArray[np.uint16], float], list[bytes]]
Decode = Callable[[list[bytes]], npt.NDArray[np.integer]]

SLOPES = tuple(float(v) for v in np.logspace(-2, 6, 33))
S1_OFFSET, S1_STEP = -60.0, 0.001
"""Quantisation of radar (float32 dB, which none of these codecs accepts): steps of 0.001 dB above -60 dB."""
_U16, _U12, _U8 = 65_535, 4_095, 255
_COLOURS = 3
_REFLECTANCE_TOP = 10_000
_KLT_OFFSET = 32_768
_COMMENT, _START_OF_TILE = b"\xff\x64", b"\xff\x90"  # markers of ISO/IEC 15444-1


@dataclass(frozen=True)
class LossyCodec:
    """One codec: encoder of a group ``[C, H, W]`` of uint16 at a setting, and its decoder."""

    encode: Encode
    decode: Decode
    settings: tuple[float, ...]
    colour_only: bool = False
    """Whether the codec is for photographs and encodes B02, B03 and B04 only."""


@dataclass(frozen=True)
class Point:
    """A point of a curve: bits and squared error of all patches of a sensor, summed over ``samples`` stored samples."""

    bits: float
    squared_error: float
    samples: int
    patches: int


def to_uint16(values: Pixels, group: BandGroup) -> npt.NDArray[np.uint16]:
    """Samples as a codec for integers takes them: reflectance unchanged, radar in steps of ``S1_STEP``."""
    if group is not S1_10M:
        return values.astype(np.uint16)
    return np.clip(np.rint((values.astype(np.float64) - S1_OFFSET) / S1_STEP), 0, _U16).astype(np.uint16)


def from_uint16(values: npt.NDArray[np.integer], group: BandGroup) -> npt.NDArray[np.float64]:
    """Samples in the stored unit, from :func:`to_uint16`."""
    out = values.astype(np.float64)
    return out * S1_STEP + S1_OFFSET if group is S1_10M else out


def lossy_curve(codec: LossyCodec, rasters: Rasters) -> list[Point]:
    """Rate and distortion of a codec over patches, one point per slope, fewest bits last; see the module docstring."""
    bits_parts, error_parts, samples, patches = [], [], 0, 0
    for group in [S2_10M] if codec.colour_only else groups_of(rasters):
        stored = rasters[group.column][:, : _COLOURS if codec.colour_only else None]
        patches, samples = len(stored), samples + stored.size
        bits = np.zeros((len(stored), len(codec.settings)))
        error = np.zeros_like(bits)
        for row, patch in enumerate(stored):
            samples_CHW = to_uint16(patch, group)
            for column, setting in enumerate(codec.settings):
                streams = codec.encode(samples_CHW, setting)
                back = from_uint16(codec.decode(streams), group)
                bits[row, column] = 8 * sum(map(len, streams))
                error[row, column] = np.square(back - patch.astype(np.float64)).sum()
        bits_parts.append(bits)
        error_parts.append(error)
    points = {}
    for slope in SLOPES:
        total_bits, total_error = 0.0, 0.0
        for bits, error in zip(bits_parts, error_parts, strict=True):
            best = (error + slope * bits).argmin(axis=1)
            rows = np.arange(len(best))
            total_bits += float(bits[rows, best].sum())
            total_error += float(error[rows, best].sum())
        points[total_bits] = Point(total_bits, total_error, samples, patches)
    return [points[bits] for bits in sorted(points, reverse=True)]


def lossless_bits(name: str, rasters: Rasters) -> float:
    """Bits of all patches of a sensor under "zstd" (level 19 on planes of low and high bytes) or "jpeg-xl".

    zstd compresses the float32 bytes of radar; JPEG-XL takes radar in steps of ``S1_STEP`` and is lossless for those
    steps only.
    """
    import imagecodecs

    total = 0
    for group in groups_of(rasters):
        for patch in rasters[group.column]:
            if name == "zstd":
                planes = np.moveaxis(np.ascontiguousarray(patch).view(np.uint8).reshape(-1, patch.itemsize), 1, 0)
                total += len(imagecodecs.zstd_encode(planes.tobytes(), level=19))
            else:
                bands = to_uint16(patch, group)
                total += sum(len(imagecodecs.jpegxl_encode(band, lossless=True, effort=7)) for band in bands)
    return 8.0 * total


def lossy_codecs(training: Rasters | None = None) -> dict[str, LossyCodec]:
    """Lossy baselines by name; with ``training`` patches, from which its matrices come, also JPEG2000 after a KLT."""
    codecs = {
        "jpeg2000": LossyCodec(_jpeg2000, _jpeg2000_back, tuple(float(v) for v in range(40, 96, 3))),
        "jpeg-xl": LossyCodec(_jpeg_xl, _jpeg_xl_back, (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8)),
        "avif": LossyCodec(_avif, _avif_back, (99, 97, 94, 90, 80, 65, 50, 30, 10), colour_only=True),
        "webp": LossyCodec(_webp, _webp_back, (100, 95, 90, 80, 60, 40, 20, 5), colour_only=True),
    }
    if training is not None:
        encode, decode = _klt_jpeg2000(training)
        codecs["jpeg2000-klt"] = LossyCodec(encode, decode, codecs["jpeg2000"].settings)
    return codecs


def _jpeg2000(group_CHW: npt.NDArray[np.uint16], psnr_65535: float) -> list[bytes]:
    import imagecodecs

    stream = bytes(
        imagecodecs.jpeg2k_encode(
            group_CHW, int(psnr_65535), codecformat="j2k", planar=True, reversible=False, mct=False
        )
    )
    # A COM segment in the main header names the encoder; it is not part of the image.
    start = stream.find(_COMMENT, 0, stream.find(_START_OF_TILE))
    if start >= 0:
        end = start + 2 + int.from_bytes(stream[start + 2 : start + 4], "big")
        stream = stream[:start] + stream[end:]
    return [stream]


def _jpeg2000_back(streams: list[bytes]) -> npt.NDArray[np.integer]:
    import imagecodecs

    decoded: npt.NDArray[np.integer] = imagecodecs.jpeg2k_decode(streams[0], planar=True)
    return decoded


def _klt_jpeg2000(training: Rasters) -> tuple[Encode, Decode]:
    """JPEG2000 of the principal components of each group's bands (orthonormal, so squared errors are preserved)."""
    bases: dict[int, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = {}
    for group in groups_of(training):
        values = from_uint16(to_uint16(training[group.column], group), group)
        if group is S1_10M:
            values = (values - S1_OFFSET) / S1_STEP
        rows = np.moveaxis(values, 1, -1).reshape(-1, len(group.bands))
        # The number of bands and the size identify a group.
        bases[_kind(len(group.bands), group.size)] = (rows.mean(axis=0), np.linalg.eigh(np.cov(rows.T))[1][:, ::-1])

    def encode(group_CHW: npt.NDArray[np.uint16], psnr_65535: float) -> list[bytes]:
        centre, basis = bases[_kind(*group_CHW.shape[:2])]
        turned = np.einsum("chw,ck->khw", group_CHW - centre[:, None, None], basis) + _KLT_OFFSET
        return _jpeg2000(np.clip(np.rint(turned), 0, _U16).astype(np.uint16), psnr_65535)

    def decode(streams: list[bytes]) -> npt.NDArray[np.integer]:
        turned = _jpeg2000_back(streams).astype(np.float64) - _KLT_OFFSET
        centre, basis = bases[_kind(*turned.shape[:2])]
        back = np.einsum("khw,ck->chw", turned, basis) + centre[:, None, None]
        return np.clip(np.rint(back), 0, _U16).astype(np.int64)

    return encode, decode


def _kind(bands: int, size: int) -> int:
    return bands * 1000 + size


def _jpeg_xl(group_CHW: npt.NDArray[np.uint16], distance: float) -> list[bytes]:
    import imagecodecs

    return [bytes(imagecodecs.jpegxl_encode(band, distance=distance, effort=5)) for band in group_CHW]


def _jpeg_xl_back(streams: list[bytes]) -> npt.NDArray[np.integer]:
    import imagecodecs

    return np.stack([imagecodecs.jpegxl_decode(stream) for stream in streams])


def _scaled(group_CHW: npt.NDArray[np.uint16], top: int) -> npt.NDArray[np.float64]:
    return np.rint(np.clip(group_CHW / _REFLECTANCE_TOP, 0, 1) * top)


def _avif(colours_3HW: npt.NDArray[np.uint16], level: float) -> list[bytes]:
    """AVIF at 12 bits per sample; reflectances above 1 are clipped."""
    import imagecodecs

    image_HW3 = np.moveaxis(_scaled(colours_3HW, _U12), 0, -1).astype(np.uint16)
    return [bytes(imagecodecs.avif_encode(np.ascontiguousarray(image_HW3), int(level), bitspersample=12, speed=4))]


def _avif_back(streams: list[bytes]) -> npt.NDArray[np.integer]:
    import imagecodecs

    image_HW3 = imagecodecs.avif_decode(streams[0]).astype(np.float64)
    return np.rint(np.moveaxis(image_HW3, -1, 0) * (_REFLECTANCE_TOP / _U12)).astype(np.int64)


def _webp(colours_3HW: npt.NDArray[np.uint16], level: float) -> list[bytes]:
    """WebP at 8 bits per sample; reflectances above 1 are clipped."""
    import imagecodecs

    image_HW3 = np.ascontiguousarray(np.moveaxis(_scaled(colours_3HW, _U8), 0, -1).astype(np.uint8))
    return [bytes(imagecodecs.webp_encode(image_HW3, int(level), lossless=False, method=6))]


def _webp_back(streams: list[bytes]) -> npt.NDArray[np.integer]:
    import imagecodecs

    image_HW3 = imagecodecs.webp_decode(streams[0])[..., :3].astype(np.float64)
    return np.rint(np.moveaxis(image_HW3, -1, 0) * (_REFLECTANCE_TOP / _U8)).astype(np.int64)


def bits_ratio(
    ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]], key: str = "bpppb"
) -> float | None:
    """Ratio of bits of two codecs at equal mean squared error: the geometric mean over the points of the first one.

    Args:
        ours: Rows of ``rs_jcif.evaluate.ladder``.
        theirs: Rows of :func:`as_rows`; logarithms of bits are interpolated linearly over that of the error, that is
            over PSNR.
        key: "bpppb" counts whole streams, "payload_bpppb" the entropy code alone.

    Returns:
        None if no point of ``ours`` lies within the range of ``theirs``.
    """
    errors = np.log([max(p["mse"], 1e-12) for p in theirs])
    order = np.argsort(errors)
    known = np.log([theirs[i]["bpppb"] for i in order])
    ratios = []
    for point in ours:
        wanted = 2 * np.log(max(point["rmse"], 1e-6))
        if errors[order[0]] <= wanted <= errors[order[-1]]:
            ratios.append(np.log(point[key]) - np.interp(wanted, errors[order], known))
    return float(np.exp(np.mean(ratios))) if ratios else None


def as_rows(curves: Mapping[str, list[Point]]) -> dict[str, list[dict[str, float]]]:
    """Curves for JSON: bits per stored sample and mean squared error."""
    return {
        name: [{"bpppb": p.bits / p.samples, "mse": p.squared_error / p.samples} for p in curve]
        for name, curve in curves.items()
    }
