"""Evaluation of a bundle by its tasks: retrieval, labels, maps, values and compression, in one report."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from eoforge.errors import UsageError
from eoforge.methods import Classifies, Compresses, Regresses, Segments, Task, get_method, tasks_of
from eoforge.methods.evaluation.labels import label_section, measure_labels
from eoforge.methods.evaluation.pixels import measure_pixels, pixel_section
from eoforge.methods.evaluation.retrieval import measure
from eoforge.methods.evaluation.retrieval_report import retrieval_report_html
from eoforge.methods.evaluation.values import measure_values, value_section
from eoforge.report import page
from eoforge.storage.addresses import TableRef, normalise
from eoforge.storage.objects import ObjectStore

if TYPE_CHECKING:
    from eoforge.bundle import Bundle

METRICS, REPORT = "metrics.json", "report.html"
EVALUATED = (Task.ENCODE, Task.CLASSIFY, Task.SEGMENT, Task.REGRESS, Task.COMPRESS)


def evaluate(
    bundle: Bundle, data: TableRef, *, k: int = 10, out: str | None = None, device: str | None = None
) -> dict[str, Any]:
    """Figures of every task that the bundle can do; with ``out`` also ``metrics.json`` and ``report.html`` there.

    Args:
        bundle: A bundle of a method that encodes, classifies, segments, regresses or compresses.
        data: Patches; without a version the newest is taken and named.
        k: Cut-off of the headline figures of retrieval; 5, 10 and 20 are measured too.
        out: Folder or ``s3://`` prefix; not the bundle's own, which is sealed.
        device: Torch device.

    Returns:
        Facts, headline figures and, with ``out``, where the files are; flat.

    Raises:
        UsageError: A split is empty, ``out`` is the bundle itself, or no task of the method has an evaluation.
    """
    if out is not None and normalise(out) == bundle.uri:
        raise UsageError(f"a bundle is sealed: write the evaluation elsewhere than {bundle.uri}")
    name = str(bundle.config["method"])
    tasks = tasks_of(bundle)
    if not set(tasks) & set(EVALUATED):
        raise UsageError(f"bundles of {name} can {', '.join(tasks)}; evaluated are {', '.join(EVALUATED)}")
    method = get_method(name)
    data = data.pinned()
    facts = {"method": name, "bundle": bundle.uri, "bundle_id": bundle.id, "patches": str(data)}
    result: dict[str, Any] = dict(facts)
    metrics: dict[str, Any] = {"facts": facts}
    retrieval = None
    sections = []
    if Task.ENCODE in tasks:
        retrieval = measure(bundle, data, k=k, device=device)
        result |= {**retrieval.facts, **retrieval.headline()}
        metrics |= retrieval.as_json()
    if Task.CLASSIFY in tasks:
        labels = measure_labels(bundle, cast("Classifies", method), data, device)
        result |= labels.headline()
        metrics["labels"] = labels.as_json()
        sections.append(label_section(labels))
    if Task.SEGMENT in tasks:
        pixels = measure_pixels(bundle, cast("Segments", method), data, device)
        result |= pixels.headline()
        metrics["pixels"] = pixels.as_json()
        sections.append(pixel_section(pixels))
    if Task.REGRESS in tasks:
        values = measure_values(bundle, cast("Regresses", method), data, device)
        result |= values.headline()
        metrics["values"] = values.as_json()
        sections.append(value_section(values))
    if Task.COMPRESS in tasks:
        result |= cast("Compresses", method).evaluate_codec(bundle, data, out, device)
    if out is not None:
        store = ObjectStore(out)
        store.put(METRICS, (json.dumps(metrics, indent=2, sort_keys=True) + "\n").encode())
        if retrieval is not None:
            store.put(REPORT, retrieval_report_html(retrieval, sections).encode())
        elif sections:
            lead = f"{name}, bundle {bundle.id[:16]}."
            title = "Regression" if Task.REGRESS in tasks else "Classification"
            store.put(REPORT, page(title, lead, sections, f"Patches {data}; bundle {bundle.uri}.").encode())
        result["out"] = store.root
    return result
