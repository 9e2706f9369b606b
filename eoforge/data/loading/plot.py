"""Images of patches: true colour, radar composite, and the land-cover map in the colours of CORINE."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from eoforge.data.bands import S1_BANDS, S2_10M
from eoforge.data.labels import CLASS_COLOURS, CLASSES, IGNORE_INDEX, clc_to_classes
from eoforge.data.loading.read_pair import read_pair
from eoforge.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from eoforge.data.records import PatchPair
    from eoforge.storage.addresses import TableRef

RGB = npt.NDArray[np.uint8]

_RGB_CHANNELS = [S2_10M.bands.index(band) for band in ("B04", "B03", "B02")]
_BRIGHTEST = 3000.0
"""Reflectance x 10,000 shown as white, unless the patch is brighter (snow, clouds, sand)."""
_DARKEST_WHITE = 1200.0
# dB ranges of VV and VH over land, and of their ratio.
_DB_RANGE = ((-20.0, 0.0), (-26.0, -6.0), (3.0, 13.0))

_CLASS_COLOURS: npt.NDArray[np.uint8] = np.array(CLASS_COLOURS, dtype=np.uint8)
_NO_CLASS = (90, 90, 90)


def _stretched(values: npt.NDArray[Any], low: Any, high: Any) -> RGB:
    scaled = (values.astype(np.float32) - low) / (np.asarray(high, dtype=np.float32) - low)
    return np.rint(np.clip(scaled, 0, 1) ** np.float32(1 / 1.4) * 255).astype(np.uint8)


def rgb(s2_10m: npt.NDArray[np.uint16]) -> RGB:
    """True-colour image of the 10 m bands.

    White is the 99th percentile of the patch, clipped to 1,200..3,000 (and higher if the median is): forests are not
    black, and one bright roof does not darken the image.

    Args:
        s2_10m: ``[4, H, W]``: B02 B03 B04 B08.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        UsageError: The array has another number of bands.
    """
    if s2_10m.ndim != 3 or s2_10m.shape[0] != len(S2_10M.bands):
        raise UsageError(f"expected the bands {', '.join(S2_10M.bands)} as [4, H, W]; got {list(s2_10m.shape)}")
    image = np.moveaxis(s2_10m[_RGB_CHANNELS], 0, -1)
    white = float(np.clip(np.percentile(image, 99), _DARKEST_WHITE, _BRIGHTEST))
    return _stretched(image, 0.0, max(white, 1.2 * float(np.median(image))))


def s1_composite(s1: npt.NDArray[np.float32]) -> RGB:
    """False-colour image of radar: red VV, green VH, blue VV minus VH, each over its usual range in dB.

    Args:
        s1: ``[2, H, W]`` in dB: VV VH.

    Returns:
        uint8 ``[H, W, 3]``: water dark blue, forest green, towns yellow to white.

    Raises:
        UsageError: The array has another number of bands.
    """
    if s1.ndim != 3 or s1.shape[0] != len(S1_BANDS):
        raise UsageError(f"expected the bands {', '.join(S1_BANDS)} as [2, H, W]; got {list(s1.shape)}")
    vv, vh = s1
    low, high = np.array(_DB_RANGE, dtype=np.float32).T
    return _stretched(np.stack([vv, vh, vv - vh], axis=-1), low, high)


def composite(red: npt.NDArray[Any], green: npt.NDArray[Any], blue: npt.NDArray[Any]) -> RGB:
    """False-colour image of three bands of one grid, each between its own 2nd and 98th percentile.

    Args:
        red: ``[H, W]``.
        green: ``[H, W]``.
        blue: ``[H, W]``.

    Returns:
        uint8 ``[H, W, 3]``.
    """
    bands = np.stack([red, green, blue], axis=-1).astype(np.float32)
    low, high = np.percentile(bands, (2, 98), axis=(0, 1)).astype(np.float32)
    return _stretched(bands, low, np.maximum(high, low + 1e-3))


def grey(band: npt.NDArray[Any]) -> RGB:
    """Grey image of one band ``[H, W]`` between its 2nd and 98th percentile, uint8 ``[H, W, 3]``."""
    return composite(band, band, band)


_RADAR_EXAMPLES = {
    "water": (-21.0, -28.0),
    "fields": (-13.0, -20.0),
    "forest": (-10.0, -15.5),
    "towns": (-2.0, -9.0),
}
"""Typical backscatter (VV, VH) in dB."""


def radar_colours() -> dict[str, str]:
    """Colours that :func:`s1_composite` gives to typical surfaces, ``#rrggbb`` by name."""
    colours = {}
    for name, backscatter in _RADAR_EXAMPLES.items():
        pixel = s1_composite(np.array(backscatter, dtype=np.float32).reshape(2, 1, 1))[0, 0]
        colours[name] = "#" + bytes(pixel.tolist()).hex()
    return colours


def map_colours(reference_map: npt.NDArray[np.integer]) -> RGB:
    """Image of a reference map in the colours of CORINE.

    Args:
        reference_map: ``[H, W]``: CLC codes as uint16, or class indices as uint8.

    Returns:
        uint8 ``[H, W, 3]``; pixels without a class are grey.
    """
    classes = reference_map if reference_map.dtype == np.uint8 else clc_to_classes(reference_map.astype(np.uint16))
    table = np.full((256, 3), _NO_CLASS, dtype=np.uint8)
    table[: len(CLASSES)] = _CLASS_COLOURS
    return table[classes]


def thumbnail_png(image: RGB, size: int = 120) -> bytes:
    """PNG of ``size`` x ``size`` pixels of an image ``[H, W, 3]``."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(image))
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def plot(pair: PatchPair) -> Figure:
    """Figure of one patch: true colour, radar composite and reference map with a legend, as far as it has them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    meta, panels = pair.meta, list[tuple[str, RGB]]()
    if pair.s2_10m is not None:
        panels.append(("Sentinel-2 B04 B03 B02", rgb(pair.s2_10m)))
    if pair.s1 is not None:
        panels.append(("Sentinel-1 VV VH", s1_composite(pair.s1)))
    if pair.reference_map is not None:
        panels.append(("CORINE land cover", map_colours(pair.reference_map)))
    figure = Figure(figsize=(4 * len(panels), 5.2), layout="constrained")
    FigureCanvasAgg(figure)  # a canvas of its own: no pyplot state, safe in services
    for axis, (title, image) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axis.imshow(image, interpolation="nearest")
        axis.set_title(title)
        axis.set_axis_off()
    if pair.reference_map is not None:
        present = np.unique(clc_to_classes(pair.reference_map)).reshape(-1)
        handles = [
            Patch(color="#{:02x}{:02x}{:02x}".format(*colour), label=_short(int(index)))
            for index, colour in zip(present, map_colours(present), strict=True)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)
    figure.suptitle(f"{meta.patch_id}\n{meta.country or 'country unknown'}, {meta.split}", fontsize=10)
    return figure


def plot_patch(table: TableRef | str, patch_id: str) -> Figure:
    """Figure of a patch of a table, see :func:`plot`.

    Args:
        table: A patches table, optionally at a version.
        patch_id: Name of the patch.

    Raises:
        NotFound: The table or the patch does not exist.
    """
    return plot(read_pair(table, patch_id))


def _short(index: int) -> str:
    return "no class" if index == IGNORE_INDEX else CLASSES[index].split(", with ")[0]
