"""Evaluation of a bundle that maps pixels: intersection over union and accuracy on the reference maps of a split.

Pixels of unlabelled CORINE codes count for nothing.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from eoforge.data.labels import CLASSES, NUM_CLASSES
from eoforge.data.loading.batch import PatchFilter
from eoforge.data.loading.loader import PatchLoader
from eoforge.errors import NotFound
from eoforge.methods.evaluation.charts import chart
from eoforge.methods.evaluation.label_details import places_of
from eoforge.methods.prediction import prepares_of
from eoforge.metrics.pixels import PixelMeasures, confusion, pixel_measures
from eoforge.nn.build import choose_device
from eoforge.nn.maps import class_map
from eoforge.progress import track
from eoforge.report import Html, concat, element, figure, section, table

if TYPE_CHECKING:
    from eoforge.bundle import Bundle
    from eoforge.methods import Segments
    from eoforge.storage.addresses import TableRef

PIXEL_SPLIT = "test"
BATCH = 32
_KEYS = ("country", "season")


@dataclass(frozen=True)
class PixelEvaluation:
    """Measures of maps on one split.

    Attributes:
        patches: Patches with a reference map.
        measures: Over all pixels.
        confusion: Counts ``[L, L]`` by class (row) and predicted class (column).
        groups: ``country`` and ``season`` -> name -> averages.
    """

    patches: int
    measures: PixelMeasures
    confusion: list[list[int]]
    groups: dict[str, dict[str, dict[str, float]]]

    def headline(self) -> dict[str, float]:
        """Averages by name: ``pixel_iou_macro`` and so on."""
        return {f"pixel_{name}": value for name, value in self.measures.averages.items()}

    def as_json(self) -> dict[str, Any]:
        """The key ``pixels`` of metrics.json."""
        return {"split": PIXEL_SPLIT, "classes": list(CLASSES), **asdict(self)}


@torch.inference_mode()
def measure_pixels(bundle: Bundle, method: Segments, data: TableRef, device: str | None = None) -> PixelEvaluation:
    """The measures of a bundle's maps on the patches of the test split that have a reference map.

    Raises:
        NotFound: The split is empty, or no patch of it has a reference map.
        BundleError: The bundle is damaged.
    """
    where = choose_device(device)
    network, prepare = method.segmenter(bundle, device), prepares_of(bundle, where)
    places = places_of(data, PIXEL_SPLIT)
    loader = PatchLoader(
        data,
        batch_size=BATCH,
        modalities=tuple(prepare),
        filter=PatchFilter(splits=(PIXEL_SPLIT,)),
        reference_map=True,
    )
    total = torch.zeros(NUM_CLASSES, NUM_CLASSES, dtype=torch.int64)
    grouped: dict[tuple[str, str], Tensor] = defaultdict(lambda: torch.zeros_like(total))
    patches = 0
    with track("mapping", total=len(loader)) as progress:
        for batch in loader:
            assert batch.reference_map is not None
            moved = batch.to(where)
            logits = network.predict({sensor: each(moved) for sensor, each in prepare.items()})
            maps = class_map(logits, batch.reference_map.shape[-1]).cpu()
            for name, predicted, truth in zip(batch.patch_id, maps, batch.reference_map, strict=True):
                counts_LL = confusion(predicted, truth, NUM_CLASSES)
                patches += bool(counts_LL.any())
                total += counts_LL
                for key in _KEYS:
                    grouped[key, places[name][key]] += counts_LL
            progress.advance()
    if not patches:
        raise NotFound(f"no patch of the {PIXEL_SPLIT} split of {data} has a reference map; maps cannot be measured")
    groups = {
        key: {
            name: pixel_measures(c).averages for (k, name), c in sorted(grouped.items()) if k == key and bool(c.any())
        }
        for key in _KEYS
    }
    return PixelEvaluation(patches, pixel_measures(total), total.tolist(), groups)


def pixel_section(measured: PixelEvaluation) -> Html:
    """The section of the report: averages, groups, every class, confusion."""
    averages = measured.measures.averages
    shown = measured.measures
    rows = [
        (label, pixels, *("–" if value is None else value for value in (accuracy, iou)))
        for label, pixels, accuracy, iou in zip(CLASSES, shown.pixels, shown.accuracy, shown.iou, strict=True)
    ]
    note = (
        f"{measured.patches:,} patches of the {PIXEL_SPLIT} split with a reference map. Pixels without a class do not "
        "count. Classes without a pixel are left out of the means."
    )
    parts: list[object] = [table(tuple(averages), [tuple(averages.values())]), element("p", note, class_="soft")]
    for key, groups in measured.groups.items():
        parts += [
            element("h3", f"By {key}"),
            table((key, *averages), [(name, *one.values()) for name, one in groups.items()]),
        ]
    parts += [element("h3", "Every class"), table(("class", "pixels", "accuracy", "IoU"), rows), _heat(measured)]
    return section("Maps", concat(parts))


def _heat(measured: PixelEvaluation) -> Html:
    counts_LL = torch.tensor(measured.confusion).double()
    shares_LL = counts_LL / counts_LL.sum(dim=1, keepdim=True).clamp(min=1)
    fig, (axes,) = chart(1, (8, 7))
    axes.imshow(shares_LL.numpy(), cmap="Blues", vmin=0, vmax=1)
    short = [label[:24] for label in CLASSES]
    axes.set_xticks(range(NUM_CLASSES), short, rotation=90)
    axes.set_yticks(range(NUM_CLASSES), short)
    axes.tick_params(labelsize=6)
    axes.set(xlabel="predicted", ylabel="reference map")
    return figure(fig, "Share of the pixels of each class (row) by predicted class.")
