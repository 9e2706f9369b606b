"""Discovery of the products below an address."""

from __future__ import annotations

from collections import defaultdict

from eoforge.data.tiles.files import TileFiles
from eoforge.data.tiles.products import TIFF, Product, band_in, read_folder
from eoforge.data.tiles.safe import MAIN_FILE, read_safe
from eoforge.data.tiles.stac import read_stac, stac_item
from eoforge.errors import DataRefused, NotFound


def find_products(files: TileFiles) -> list[Product]:
    """Products below an address, in the order of their addresses.

    Raises:
        NotFound: There is none.
        DataRefused: A product is incomplete or of another level.
    """
    rest = files.paths()
    products: list[Product] = []
    alone = files.root.upper().endswith(".SAFE") or MAIN_FILE in rest
    for folder in [""] if alone else sorted(set(filter(None, map(_safe_folder, rest)))):
        start = f"{folder}/" if folder else ""
        inside = [key for key in rest if key.startswith(start)]
        if f"{start}{MAIN_FILE}" not in inside:
            raise DataRefused(f"{files.address(folder)} lacks {MAIN_FILE}; expected a whole level-2A product")
        products.append(read_safe(files, folder, inside))
        rest = [key for key in rest if not key.startswith(start)]
    claimed: set[str] = set()
    for key in rest:
        item = stac_item(files, key) if key.endswith(".json") else None
        if item is not None:
            products.append(read_stac(files, key, item))
            claimed |= {band.key for band in products[-1].bands.values()}
    folders: dict[str, list[str]] = defaultdict(list)
    for key in rest:
        folder, _, name = key.rpartition("/")
        if key not in claimed and name.lower().endswith(TIFF) and band_in(name.rsplit(".", 1)[0]):
            folders[folder].append(key)
    products += [read_folder(files, folder, keys) for folder, keys in folders.items()]
    if not products:
        raise NotFound(
            f"no level-2A product at {files.address(files.only)}: expected SAFE folders ({MAIN_FILE}), STAC Items "
            "(.json), or folders with one GeoTIFF per band (such as B02.tif)"
        )
    return sorted(products, key=lambda product: product.where)


def _safe_folder(key: str) -> str | None:
    """SAFE folder that a file lies in; None if it lies in none."""
    parts = key.split("/")
    for depth, part in enumerate(parts[:-1], 1):
        if part.upper().endswith(".SAFE") and part.startswith("S2"):
            return "/".join(parts[:depth])
    return "/".join(parts[:-1]) if parts[-1] == MAIN_FILE else None
