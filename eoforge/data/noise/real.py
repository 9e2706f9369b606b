"""Label noise as it happens: maps that lie beside their images, and the labels of BigEarthNet v1 on patches of reBEN.

Both become derived versions, as injected noise does, with the clean labels of reBEN as the truth.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from math import cos, pi, sin
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from eoforge.data.labels import CLC_TO_CLASS, IGNORE_INDEX, NUM_CLASSES, UNLABELED_CLC, clc_to_classes
from eoforge.data.names import tile_of
from eoforge.data.noise.derived import Derived, derive, training_labels
from eoforge.data.noise.maps import shifted
from eoforge.data.noise.scene import Bools, realised
from eoforge.data.split import SPLITS
from eoforge.data.tables.schema import tensor_column
from eoforge.errors import DataRefused, NotFound, UsageError
from eoforge.nn.seeds import derive_seed
from eoforge.storage.addresses import open_table
from eoforge.storage.objects import ObjectStore

SHIFTED, V1 = "shifted", "bigearthnet_v1"
_MAX_JSON_BYTES = 1 << 16
_ROWS = 256

_V1_NAMES: dict[int, str] = {
    111: "Continuous urban fabric",
    112: "Discontinuous urban fabric",
    121: "Industrial or commercial units",
    122: "Road and rail networks and associated land",
    123: "Port areas",
    124: "Airports",
    131: "Mineral extraction sites",
    132: "Dump sites",
    133: "Construction sites",
    141: "Green urban areas",
    142: "Sport and leisure facilities",
    211: "Non-irrigated arable land",
    212: "Permanently irrigated land",
    213: "Rice fields",
    221: "Vineyards",
    222: "Fruit trees and berry plantations",
    223: "Olive groves",
    231: "Pastures",
    241: "Annual crops associated with permanent crops",
    242: "Complex cultivation patterns",
    243: "Land principally occupied by agriculture, with significant areas of natural vegetation",
    244: "Agro-forestry areas",
    311: "Broad-leaved forest",
    312: "Coniferous forest",
    313: "Mixed forest",
    321: "Natural grassland",
    322: "Moors and heathland",
    323: "Sclerophyllous vegetation",
    324: "Transitional woodland/shrub",
    331: "Beaches, dunes, sands",
    332: "Bare rock",
    333: "Sparsely vegetated areas",
    334: "Burnt areas",
    411: "Inland marshes",
    412: "Peatbogs",
    421: "Salt marshes",
    422: "Salines",
    423: "Intertidal flats",
    511: "Water courses",
    512: "Water bodies",
    521: "Coastal lagoons",
    522: "Estuaries",
    523: "Sea and ocean",
}
_CLC_OF_NAME = {name: code for code, name in _V1_NAMES.items()}


def add_shift(table: str, pixels: int, seed: int = 0) -> Derived:
    """A derived version whose training maps lie ``pixels`` beside their images, as a geolocation error does (*ours*).

    Every tile acquisition has one direction, as its patches share an orbit and a processing. A class that leaves a
    patch also leaves its scene labels; what would come in from outside is not known, so the border repeats.

    Args:
        table: A patches table with reference maps.
        pixels: Length of the shift, at least 1.
        seed: Of the directions.

    Raises:
        UsageError: The length is not positive.
        NotFound: There is no such table.
        DataRefused: No patch of the training split has a map.
    """
    if pixels < 1:
        raise UsageError(f"a shift must be at least 1 pixel; got {pixels}")
    names, clean = training_labels(open_table(table))
    row_of = {name: row for row, name in enumerate(names)}
    noisy = clean.copy()
    known = 0
    for name, map_HW in _training_maps(table):
        before, after = _classes(map_HW), _classes(_moved(name, map_HW, pixels, seed))
        noisy[row_of[name]] &= after | ~before
        known += 1
    if not known:
        raise DataRefused("no patch of the training split has a reference map; ingest an archive with Reference_Maps")
    provenance = {
        "noise": {"kind": SHIFTED, "pixels": pixels, "seed": seed},
        "maps": True,
        "realised": asdict(realised(clean, noisy)),
    }

    def rule(name: str, map_HW: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8] | None:
        return _moved(name, map_HW, pixels, seed) if name in row_of else None

    return derive(table, dict(zip(names, noisy, strict=True)), provenance, rule)


def _moved(name: str, map_HW: npt.NDArray[np.uint8], pixels: int, seed: int) -> npt.NDArray[np.uint8]:
    angle = 2 * pi * np.random.Generator(np.random.Philox(derive_seed("map shift", tile_of(name), seed))).random()
    return shifted(map_HW, round(pixels * sin(angle)), round(pixels * cos(angle)))


def _classes(map_HW: npt.NDArray[np.uint8]) -> Bools:
    return np.bincount(map_HW[map_HW != IGNORE_INDEX], minlength=NUM_CLASSES) > 0


def _training_maps(table: str) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    batches: Iterable[pa.RecordBatch] = open_table(table).to_batches(
        columns=["patch_id", "reference_map"],
        filter=f"split = '{SPLITS[0]}' AND label_mask IS NOT NULL",
        batch_size=_ROWS,
    )
    for batch in batches:
        codes, valid = tensor_column(batch["reference_map"])
        for name, code_HW, there in zip(batch["patch_id"].to_pylist(), codes, valid, strict=True):
            if there:
                yield name, clc_to_classes(code_HW)


def add_v1_labels(table: str, folder: str) -> Derived:
    """A derived version whose training labels are those of BigEarthNet v1, where the folder has them.

    v1 had 43 classes; here they are the 19 of reBEN, by the same land-cover codes. A patch keeps its labels if v1 does
    not know it, or knew only classes that reBEN dropped.

    Args:
        table: A patches table with ``s2v1_name``.
        folder: ``BigEarthNet-v1.0``, a path or ``s3://`` URI, with ``NAME/NAME_labels_metadata.json`` per patch.

    Raises:
        NotFound: There is no such table.
        DataRefused: No training patch is in the folder, or a file is damaged or has an unknown label.
    """
    dataset = open_table(table)
    names, clean = training_labels(dataset)
    rows = dataset.to_table(columns=["patch_id", "s2v1_name"]).to_pydict()
    v1_of = dict(zip(rows["patch_id"], rows["s2v1_name"], strict=True))
    store = ObjectStore(folder)
    labels: dict[str, Bools] = {}
    for name in names:
        found = None if v1_of[name] is None else v1_labels(store, v1_of[name])
        if found is not None and found.any():
            labels[name] = found
    if not labels:
        raise DataRefused(
            f"{folder} has labels of none of the {len(names)} training patches; expected the official folder "
            "BigEarthNet-v1.0 with NAME/NAME_labels_metadata.json per patch"
        )
    chosen = [row for row, name in enumerate(names) if name in labels]
    noisy = np.stack([labels[names[row]] for row in chosen])
    provenance = {
        "noise": {"kind": V1, "folder": folder, "patches": len(labels)},
        "maps": False,
        "realised": asdict(realised(clean[chosen], noisy)),
    }
    return derive(table, labels, provenance)


def v1_labels(store: ObjectStore, name: str) -> Bools | None:
    """Labels ``[19]`` of a patch of BigEarthNet v1; None if the store does not have the patch.

    Raises:
        DataRefused: The file is damaged or has an unknown label.
    """
    key = f"{name}/{name}_labels_metadata.json"
    try:
        content = store.get(key, limit=_MAX_JSON_BYTES)
    except NotFound:
        return None
    return read_v1_labels(content, f"{store.root}/{key}")


def read_v1_labels(content: bytes, where: str) -> Bools:
    """Labels ``[19]`` of a ``_labels_metadata.json`` of BigEarthNet v1.

    Raises:
        DataRefused: The file is damaged or has an unknown label.
    """
    try:
        document: Any = json.loads(content)
        given = document["labels"]
        codes = [_CLC_OF_NAME[label] for label in given]
    except KeyError as error:
        raise DataRefused(f"{where}: expected 'labels' with names of the 43 classes of v1; got {error}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise DataRefused(f"{where}: no JSON with a list of labels: {error}") from error
    labels = np.zeros(NUM_CLASSES, dtype=bool)
    labels[[CLC_TO_CLASS[code] for code in codes if code not in UNLABELED_CLC]] = True
    return labels
