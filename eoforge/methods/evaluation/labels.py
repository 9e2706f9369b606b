"""Evaluation of a bundle that classifies: multi-label measures on the test split, per class and averaged.

A bundle of two sensors is measured from each sensor alone and from both together.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from eoforge.data.labels import CLASSES
from eoforge.data.loading.batch import PatchFilter
from eoforge.data.loading.loader import PatchLoader
from eoforge.methods.calibration import Calibration
from eoforge.methods.evaluation.charts import SENSOR
from eoforge.methods.evaluation.label_details import LabelDetails, details_of, places_of
from eoforge.methods.evaluation.label_report import detail_parts
from eoforge.methods.prediction import prepares_of
from eoforge.metrics.multilabel import AVERAGES, LabelMeasures, labels_of_masks, multilabel_measures
from eoforge.nn.build import choose_device
from eoforge.progress import track
from eoforge.report import Html, concat, element, section, table

if TYPE_CHECKING:
    from eoforge.bundle import Bundle
    from eoforge.methods import Classifies
    from eoforge.storage.addresses import TableRef

LABEL_SPLIT = "test"
BOTH = "both"
BATCH = 64


@dataclass(frozen=True)
class LabelEvaluation:
    """Measures of a classifier on one split.

    Attributes:
        patches: Number of patches.
        measures: Input (a sensor, or "both") -> measures over ``CLASSES``.
        details: Input -> figures by country and season, calibration, confusion and curves.
    """

    patches: int
    measures: dict[str, LabelMeasures]
    details: dict[str, LabelDetails]

    def headline(self) -> dict[str, float]:
        """Averages by name and input: ``label_f1_macro_s2`` and so on."""
        return {
            f"label_{name}_{source}": value
            for source, measures in self.measures.items()
            for name, value in {**measures.averages, "ece": self.details[source].calibration["ece"]}.items()
        }

    def as_json(self) -> dict[str, Any]:
        """The key ``labels`` of metrics.json."""
        by_input = {
            source: {
                "averages": measures.averages,
                "classes": [
                    {"label": label, **asdict(one)} for label, one in zip(CLASSES, measures.classes, strict=True)
                ],
                **asdict(self.details[source]),
            }
            for source, measures in self.measures.items()
        }
        return {"split": LABEL_SPLIT, "patches": self.patches, "inputs": by_input}


@torch.inference_mode()
def measure_labels(bundle: Bundle, method: Classifies, data: TableRef, device: str | None = None) -> LabelEvaluation:
    """The measures of a bundle's classifier on the patches of the test split.

    Args:
        bundle: A bundle of ``method``.
        method: Loads the classifier.
        data: Patches table at a version.
        device: Torch device of the classifier.

    Raises:
        NotFound: The split is empty.
        BundleError: The bundle is damaged.
        UsageError: No patch has a label.
    """
    where = choose_device(device)
    network = method.classifier(bundle, device)
    calibration, prepare = Calibration.of(bundle), prepares_of(bundle, where)
    each = {sensor: (sensor,) for sensor in prepare} if network.alone or len(prepare) == 1 else {}
    inputs = each | ({BOTH: tuple(prepare)} if len(prepare) > 1 else {})
    loader = PatchLoader(
        data, batch_size=BATCH, modalities=tuple(prepare), filter=PatchFilter(splits=(LABEL_SPLIT,)), labelled=True
    )
    logits: dict[str, list[torch.Tensor]] = {source: [] for source in inputs}
    masks: list[torch.Tensor] = []
    names: list[str] = []
    with track("classifying", total=len(loader)) as progress:
        for batch in loader:
            moved = batch.to(where)
            images = {sensor: p(moved) for sensor, p in prepare.items()}
            for source, sensors in inputs.items():
                logits[source].append(network.predict({s: images[s] for s in sensors}).float().cpu())
            masks.append(batch.label_mask)
            names += batch.patch_id
            progress.advance()
    labels = labels_of_masks(torch.cat(masks), len(CLASSES))
    measures = {source: multilabel_measures(torch.cat(parts).sigmoid(), labels) for source, parts in logits.items()}
    places = places_of(data, LABEL_SPLIT)
    where_taken = [places[name] for name in names]
    details = {
        source: details_of(torch.cat(parts), labels, where_taken, calibration) for source, parts in logits.items()
    }
    return LabelEvaluation(len(labels), measures, details)


def label_section(measured: LabelEvaluation) -> Html:
    """The section of the report: averages of every input, then every class of each."""
    rows = [
        (_name(source), *(measures.averages.get(f"{measure}_{average}", "–") for measure, average in _columns()))
        for source, measures in measured.measures.items()
    ]
    header = ("input", *(f"{_TITLES[measure]} {average}" for measure, average in _columns()))
    note = (
        f"{measured.patches:,} patches of the {LABEL_SPLIT} split; a label is predicted where its probability exceeds "
        "0.5. Weights are numbers of patches. Classes for which a measure is not defined are left out of its mean."
    )
    parts: list[object] = [table(header, rows), element("p", note, class_="soft")]
    for source, measures in measured.measures.items():
        body = [
            (label, one.patches, one.predicted, *(_shown(v) for v in (one.average_precision, one.f1, one.auroc)))
            for label, one in zip(CLASSES, measures.classes, strict=True)
        ]
        title = element("h3", f"Every class, {_name(source)}")
        parts += [title, table(("class", "patches", "predicted", "average precision", "F1", "AUROC"), body)]
        parts += detail_parts(measured.details[source], _name(source))
    return section("Labels", concat(parts))


_TITLES = {"map": "mAP", "f1": "F1", "auroc": "AUROC"}


def _columns() -> list[tuple[str, str]]:
    return [(measure, average) for measure in _TITLES for average in AVERAGES]


def _name(source: str) -> str:
    return SENSOR.get(source, "both sensors")


def _shown(value: float | None) -> float | str:
    return "–" if value is None else value
