"""Recognition of what lies at an address that is no archive, so that a refusal says what was found."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from eoforge.data.archives.layout import MAP_FOLDER, S1_FOLDER, S2_FOLDER

LOOKED_AT = 2000
"""Number of files whose names are looked at."""
_DEPTH = 6
_KINDS: tuple[tuple[str, str], ...] = (
    (
        r"(^|/)S2[AB]_MSIL2A_\d{8}T\d{5,6}_\d{1,2}_\d{1,2}/[^/]+\.tiff?$",
        "this is BigEarthNet v1: its optical pixels differ from those of reBEN (another atmospheric correction), and "
        "its labels and splits are others. Get reBEN (BigEarthNet v2.0), whose radar files are the same",
    ),
    (
        r"(^|/)S1[AB]_IW_GRDH_1SDV_[^/]+/[^/]+_labels_metadata\.json$",
        "this is the radar part of BigEarthNet v1, with a file of labels per patch. Get reBEN (BigEarthNet v2.0), "
        "which has the same radar pixels with metadata.parquet",
    ),
    (
        r"(^|/)(AnnualCrop|Forest|HerbaceousVegetation|Highway|Industrial|Pasture|PermanentCrop|Residential|River|"
        r"SeaLake)/[^/]*_\d+\.(jpg|tif)$",
        "this is EuroSAT: patches of 64 x 64 pixels with one class each and without radar partners. It cannot be an "
        "archive; its .tif files can be queries (`eoforge search --image`)",
    ),
    (
        r"(^|/)(s1|s2a|s2c)/\d{7}/[^/]+/(B\d{1,2}A?|VV|VH)\.tif$",
        "this is SSL4EO-S12: 264 x 264 pixels in degrees, without labels and without the grid of reBEN. Its folders "
        "can be queries (`eoforge search --image`)",
    ),
    (
        r"(^|/)\d+[UD]/\d+[UD]_\d+[LR]/",
        "this is Major TOM: cells of 1,068 x 1,068 pixels. Cut patches from them with `eoforge construct`, or ask with "
        "`eoforge search --image`",
    ),
    (
        r"(^|/)[^/]+\.SAFE/|(^|/)MTD_MSIL[12][AC]\.xml$",
        "these are whole Sentinel products. Cut patches from them with `eoforge construct`",
    ),
    (r"(^|/)_versions/[^/]+\.manifest$", "this is a Lance table, the result of an ingestion; use it as it is"),
    (r"(^|/)weights\.safetensors$", "this is a run bundle, a trained model, and no images"),
    (r"\.(tar\.gz|tgz|tar\.bz2|zip|7z|rar)$", "these are packed files of another kind; unpack them first"),
)
_OFFICIAL = re.compile(rf"(.*/)?({S2_FOLDER}|{S1_FOLDER})(\.tar(\.zst)?$|/)")
_TILE = re.compile(r"(^|/)S2[AB]_MSIL2A_\d{8}T\d{6}_N\d{4}_R\d{3}_T\w{5}/")


def names_below(folder: Path) -> list[str]:
    """Relative paths of the first files below a folder, not deeper than reBEN's."""

    def files() -> Iterable[str]:
        for root, folders, names in os.walk(folder):
            inside = Path(root).relative_to(folder)
            folders[:] = sorted(f for f in folders if not f.startswith(".")) if len(inside.parts) < _DEPTH else []
            yield from ((inside / name).as_posix() for name in sorted(names) if not name.startswith("."))

    return list(islice(files(), LOOKED_AT))


def what_is_at(address: str, names: Sequence[str]) -> str:
    """Sentence about the content of an address.

    Args:
        address: The address; its last part counts where a user names one folder too deep.
        names: Paths of files below it, with ``/``.
    """
    last = address.rstrip("/").rpartition("/")[2]
    deeper = next(filter(None, map(_OFFICIAL.match, names)), None)
    if deeper is not None and deeper[1]:
        return f"the archive is one level deeper: name {address.rstrip('/')}/{deeper[1].rstrip('/')}"
    if last in (S2_FOLDER, S1_FOLDER, MAP_FOLDER) or any(map(_TILE.search, names)):
        return "this is one of the folders of an archive; name the folder that holds all of them and metadata.parquet"
    for pattern, words in _KINDS:
        if any(re.search(pattern, name) for name in (*names, *(f"{last}/{name}" for name in names))):
            return words
    counts = Counter(Path(name).suffix.lower() or "without a suffix" for name in names)
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common(4))
    more = " among the first" if len(names) == LOOKED_AT else ""
    return f"found{more} {len(names)} files: {kinds}"
