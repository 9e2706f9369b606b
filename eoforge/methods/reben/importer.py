"""Import of published weights of the reBEN baselines: channel order, class order and normalisation of a run bundle.

    python -m eoforge.methods.reben.importer FOLDER --layout v0.2.0 --out RUNS [--check TABLE]

*Confirmed* by reading the released training script and ConfigILM 0.7.1: weights have timm's names below
``model.vision_encoder.``; settings are ``timm_model_name``, ``channels``, ``classes``, ``image_size``; classes are in
alphabetical order; inputs are normalised by the statistics below. *Confirmed* by the model cards: both channel orders.
*Inferred*: the names of the two files, which are those of the hub's library; no published folder was available.

Both orders have equal shapes, so that a wrong one would load and predict nonsense: the order must be named, and what
the folder says or a labelled table shows must agree with it.

Rows of the last layer and channels of the first are permuted once, here: a bundle has the orders of the platform.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eoforge.bundle import Bundle, code_revision, model_card, write_bundle
from eoforge.data.bands import S1_BANDS, S2_BANDS_10
from eoforge.data.labels import NUM_CLASSES, TO_ALPHABETICAL
from eoforge.data.loading.loader import PatchLoader
from eoforge.data.loading.prepare import Prepare
from eoforge.errors import DataRefused, EoforgeError, NotFound, UsageError
from eoforge.methods.reben.config import Config
from eoforge.methods.reben.method import facts_of
from eoforge.methods.reben.model import SceneNetwork, build
from eoforge.metrics.multilabel import labels_of_masks, multilabel_figures
from eoforge.report import markdown_code
from eoforge.storage.addresses import TableRef

ORDERS: dict[str, dict[str, tuple[str, ...]]] = {
    "v0.1.1": {
        "s2": ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B11", "B12", "B8A"),
        "s1": ("VH", "VV"),
    },
    "v0.2.0": {"s1": S1_BANDS, "s2": S2_BANDS_10},
}
"""Layout -> bands per sensor in channel order, sensors in the order of the stack."""
NORMALISATION: dict[str, tuple[float, float]] = {
    "B02": (438.3721, 607.0269), "B03": (614.0557, 603.2968), "B04": (588.4096, 684.5688), "B05": (942.8433, 738.4327),
    "B06": (1769.9316, 1100.4561), "B07": (2049.5515, 1275.8054), "B08": (2193.2920, 1369.3717),
    "B8A": (2235.5566, 1356.5441), "B11": (1568.2268, 1070.1613), "B12": (997.7325, 813.5276),
    "VV": (-12.6439, 5.1335), "VH": (-19.3526, 5.5905),
}  # fmt: skip
"""Mean and deviation of the training split at 120 pixels, nearest neighbour (*confirmed*: ConfigILM 0.7.1)."""
PREFIX = "model.vision_encoder."
WEIGHTS, SETTINGS, CARD = "model.safetensors", "config.json", "README.md"
CHECK_PATCHES = 512
_SENSORS = {2: "s1", 10: "s2", 12: "s1s2"}
_MAX_BYTES, _MAX_TEXT = 8 << 30, 1 << 20
_VERSION = re.compile(r"v0\.[12]\.[01]")


@dataclass(frozen=True)
class Published:
    """Content of a published folder: settings of the network, and weights with timm's names."""

    config: Config
    weights: dict[str, Tensor]


def import_published(folder: str, out: str, layout: str, check: TableRef | None = None) -> Bundle:
    """The bundle of published weights.

    Args:
        folder: Folder with ``model.safetensors`` and ``config.json``; its name and ``README.md`` may say the version.
        out: Folder of run bundles.
        layout: Version whose channel order the weights have, one of ``ORDERS``.
        check: Labelled patches on which the weights must do better in this order than in the other. Needed where the
            folder does not say its version.

    Raises:
        NotFound: The folder or a file of it does not exist.
        UsageError: The layout is unknown, or nothing says that it is the right one.
        DataRefused: The folder or the labelled patches say another order, or the weights are not of such a network.
    """
    if layout not in ORDERS:
        raise UsageError(f"layout must be one of {', '.join(ORDERS)}; got {layout!r}")
    said = said_versions(Path(folder))
    if said and said != {layout}:
        raise DataRefused(
            f"{folder} says that its weights are {' and '.join(sorted(said))}, whose channels are in another order "
            f"than {layout}: {order_text(layout)}"
        )
    if not said and check is None:
        raise UsageError(
            f"nothing in {folder} says the version of its weights, and both orders of channels fit: give labelled "
            "patches (--check TABLE), on which the right order does better"
        )
    published = read_published(Path(folder))
    score = None if check is None else _checked(published, layout, check)
    return _write(published, layout, out, folder, check, score)


def said_versions(folder: Path) -> set[str]:
    """Versions that the name of a folder, or its model card, names."""
    card = folder / CARD
    text = folder.name
    if not _VERSION.search(text) and card.is_file() and card.stat().st_size <= _MAX_TEXT:
        text = card.read_text(encoding="utf-8", errors="replace")
    return {version for version in _VERSION.findall(text) if version in ORDERS}


def order_text(layout: str) -> str:
    """Channels of a layout as text."""
    return " ".join(band for bands in ORDERS[layout].values() for band in bands)


def read_published(folder: Path) -> Published:
    """Settings and weights of a published folder.

    Raises:
        NotFound: A file does not exist.
        DataRefused: A file is damaged, too large, or of another kind of network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for name, limit in ((SETTINGS, _MAX_TEXT), (WEIGHTS, _MAX_BYTES)):
        if not (folder / name).is_file():
            raise NotFound(f"no {name} in {folder}; expected the folder of one published model")
        if (folder / name).stat().st_size > limit:
            raise DataRefused(f"{folder / name} is larger than {limit} bytes")
    try:
        given = json.loads((folder / SETTINGS).read_text())
        state = load_file(folder / WEIGHTS)
    except (ValueError, SafetensorError) as error:
        raise DataRefused(f"{folder} holds a damaged file: {error}") from error
    config = _config(given, folder)
    foreign = sorted(name for name in state if not name.startswith(PREFIX))
    if foreign or not state:
        raise DataRefused(f"expected weights named {PREFIX}... in {folder / WEIGHTS}; got {', '.join(foreign[:3])}")
    return Published(config, {name.removeprefix(PREFIX): tensor for name, tensor in state.items()})


def _config(given: Any, folder: Path) -> Config:
    found: dict[str, Any] = given if isinstance(given, dict) else {}
    inner = found.get("config")
    found = inner if isinstance(inner, dict) else found
    name, channels = found.get("timm_model_name"), found.get("channels")
    size, classes = found.get("image_size", 120), found.get("classes")
    if not isinstance(name, str) or channels not in _SENSORS or classes != NUM_CLASSES or type(size) is not int:
        raise DataRefused(
            f"{folder / SETTINGS} must name timm_model_name, image_size, 2, 10 or 12 channels and {NUM_CLASSES} "
            f"classes; got {name!r}, {size!r}, {channels!r}, {classes!r}"
        )
    return replace(Config.paper(), backbone=name, sensors=_SENSORS[channels], size=size)  # type: ignore[arg-type]  # of the literals


def converted(published: Published, layout: str) -> SceneNetwork:
    """Network in the platform's orders of bands and classes, from weights in a layout's order.

    Raises:
        DataRefused: Names or shapes of weights are those of another network.
    """
    network = build(published.config)
    assert isinstance(network, SceneNetwork)
    model: Any = network.model
    first, last = model.pretrained_cfg["first_conv"], model.pretrained_cfg["classifier"]
    ours = [band for bands in published.config.sensor_bands.values() for band in bands]
    theirs = [b for sensor, bands in ORDERS[layout].items() if sensor in published.config.sensor_bands for b in bands]
    weights = dict(published.weights)
    try:
        if weights[f"{first}.weight"].shape[1] != len(ours):
            raise IndexError(f"{first} reads {weights[f'{first}.weight'].shape[1]} channels")
        weights[f"{first}.weight"] = weights[f"{first}.weight"][:, [theirs.index(band) for band in ours]]
        for name in (f"{last}.weight", f"{last}.bias"):
            weights[name] = weights[name][list(TO_ALPHABETICAL)]
        model.load_state_dict(weights)
    except (KeyError, IndexError, RuntimeError) as error:
        raise DataRefused(
            f"the weights are not those of {published.config.backbone} with {len(ours)} channels: {error}"
        ) from error
    return network.eval()


def _checked(published: Published, layout: str, table: TableRef) -> float:
    """Micro mean average precision on labelled patches; the other order must do worse."""
    scores = {name: _score(converted(published, name), published.config, table) for name in ORDERS}
    better = max(scores, key=lambda name: scores[name])
    if better != layout:
        shown = ", ".join(f"{name} {score:.3f}" for name, score in scores.items())
        raise DataRefused(
            f"the weights do better on {table} in the order {better} than in {layout} (mean average precision: {shown})"
            f"; the order of {better} is {order_text(better)}"
        )
    return scores[layout]


@torch.inference_mode()
def _score(network: SceneNetwork, config: Config, table: TableRef) -> float:
    bands = config.sensor_bands
    prepare = {s: Prepare.of(names, NORMALISATION, config.size, config.interpolation) for s, names in bands.items()}
    logits, labels, seen = [], [], 0
    for batch in PatchLoader(table, batch_size=64, modalities=tuple(bands)):
        logits.append(network.predict({sensor: each(batch) for sensor, each in prepare.items()}))
        labels.append(labels_of_masks(batch.label_mask, NUM_CLASSES))
        seen += len(batch)
        if seen >= CHECK_PATCHES:
            break
    return multilabel_figures(torch.cat(logits).sigmoid(), torch.cat(labels))["map_micro"]


def _write(
    published: Published, layout: str, out: str, folder: str, check: TableRef | None, score: float | None
) -> Bundle:
    config, network = published.config, converted(published, layout)
    bands = config.sensor_bands
    metrics = {} if score is None else {"check_map_micro": score}
    facts = {
        "method": "reben",
        "config": asdict(config),
        "bands": {sensor: list(names) for sensor, names in bands.items()},
        "normalisation": {band: list(NORMALISATION[band]) for names in bands.values() for band in names},
        "seed": config.seed,
        "patches": None,
        "code_revision": code_revision(),
        "imported": {"layout": layout, "channels": order_text(layout)},
        **facts_of(config),
    }
    opening = (
        f"Published weights of the reBEN baselines, imported from {markdown_code(Path(folder).name)} in the channel "
        f"order of {layout}. Trained elsewhere; no calibration."
    )
    measured = "No figures were measured here." if check is None else f"On patches of {markdown_code(str(check))}."
    readme = model_card("reben", opening, bands=bands, measured=measured, figures=metrics, settings=asdict(config))
    return write_bundle(out, weights=network.state_dict(), config=facts, metrics=metrics, readme=readme)


def main() -> None:
    """Entry point of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--layout", required=True, choices=tuple(ORDERS))
    parser.add_argument("--out", required=True, help="folder of run bundles")
    parser.add_argument("--check", type=TableRef.parse, help="TABLE or TABLE@VERSION with labelled patches")
    given = parser.parse_args()
    try:
        print(import_published(given.folder, given.out, given.layout, given.check).uri)
    except EoforgeError as error:
        parser.exit(error.exit_code, f"{error}\n")


if __name__ == "__main__":
    main()
