"""The report of an evaluation of retrieval: figures, answered queries with pictures, training curve and bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eoforge.data.labels import names_of
from eoforge.data.loading.plot import rgb, s1_composite, thumbnail_png
from eoforge.data.tables.schema import tensor_column
from eoforge.index.search import HammingIndex
from eoforge.methods.evaluation.answers import answers_legend, band_filters, patch_card, tie_note
from eoforge.methods.evaluation.charts import COLOURS, SENSOR, chart
from eoforge.methods.evaluation.retrieval import (
    EMBEDDING,
    GALLERY_SPLIT,
    QUERY_SPLIT,
    RANDOM,
    TRAINED,
    UNTRAINED,
    Evaluation,
)
from eoforge.metrics.bits import BitStatistics
from eoforge.report import Html, concat, element, figure, page, section, table
from eoforge.storage.addresses import open_table

SYSTEM = {
    TRAINED: "trained codes",
    EMBEDDING: "trained embeddings",
    UNTRAINED: "untrained codes",
    RANDOM: "random codes",
}
EXAMPLES, PARTNER_EXAMPLES, EXAMPLE_HITS = 3, 2, 6
"""Per direction: queries from the query split, queries whose partner is in the gallery, and hits of each."""

_EXPECTED = "tie_aware_"


@dataclass(frozen=True)
class _Example:
    """One answered query; positions count within ``Evaluation.rows``."""

    source: str
    target: str
    query: int
    hits: list[int]
    distances: list[int]


def retrieval_report_html(measured: Evaluation, sections: Sequence[Html] = ()) -> str:
    """The page of an evaluation: comparison with other codes, answered queries, all measures, training, bit statistics.

    Only the rasters of the shown patches are read.

    Args:
        measured: The evaluation.
        sections: Sections of the bundle's other tasks, put at the end.
    """
    facts = measured.facts
    cross = [_example_section(measured, source, target) for source, target in _directions(measured, same=False)]
    lead = (
        f"{facts['method']}, bundle {facts['bundle_id'][:16]}, {facts['bits']}-bit codes. {facts['queries']:,} queries "
        f"from the {QUERY_SPLIT} split, gallery of {facts['gallery']:,} patches of the {GALLERY_SPLIT} split."
    )
    footer = f"Patches {facts['patches']}; bundle {facts['bundle']}; baselines drawn with seed {facts['seed']}."
    return page(
        "Retrieval across sensors",
        lead,
        [
            band_filters(),
            _comparison(measured),
            *cross,
            _all_measures(measured),
            _training(measured.history),
            *(_bits(modality, statistics) for modality, statistics in measured.bits.items()),
            *sections,
        ],
        footer,
    )


def _directions(measured: Evaluation, *, same: bool) -> Iterator[tuple[str, str]]:
    for source in measured.features:
        for target in measured.features:
            if same or source != target:
                yield source, target


def _arrow(direction: str) -> str:
    source, _, target = direction.partition("_to_")
    return f"{SENSOR[source]} → {SENSOR[target]}"


def _compared(k: int) -> dict[str, str]:
    """Measures of the first table, by the name that is shown there."""
    return {
        f"partner_recall@{k}": f"partner recall@{k}",
        f"map_jaccard50_archive@{k}": f"mAP@{k} Jaccard ≥ 0.5",
        f"map_shared_archive@{k}": f"mAP@{k} one shared label",
        f"f1_of_means@{k}": f"F1@{k} of means",
        f"mean_f1@{k}": f"mean F1@{k}",
        f"ndcg@{k}": f"NDCG@{k}",
    }


def _comparison(measured: Evaluation) -> Html:
    columns = _compared(measured.k)
    rows = [
        (
            element("b", _arrow(direction)) if system == TRAINED else "",
            SYSTEM[system],
            *(measured.measures[system][direction].get(name, "–") for name in columns),
        )
        for direction in measured.measures[TRAINED]
        for system in SYSTEM
    ]
    note = (
        f"Partner recall: queries and gallery are the {GALLERY_SPLIT} split, and the result is the same place seen by "
        f"the other sensor. All other columns: {QUERY_SPLIT} patches as queries, the {GALLERY_SPLIT} split as gallery. "
        "mAP divides by min(k, relevant in the gallery). Most pairs of patches share one of 19 labels, so that column "
        "separates systems least."
    )
    return section(
        "Comparison with untrained and random codes",
        table(("direction", "system", *columns.values()), rows),
        _p(note),
        _on_embeddings(measured, columns),
    )


def _on_embeddings(measured: Evaluation, columns: Mapping[str, str]) -> Html:
    """Paragraph on the directions in which embeddings are worse than the codes; empty if there are none."""
    worse = []
    for direction, codes in measured.measures[TRAINED].items():
        floats = measured.measures[EMBEDDING][direction]
        names = [shown for name, shown in columns.items() if name in codes and floats.get(name, 0.0) < codes[name]]
        if names:
            worse.append(f"{_arrow(direction)} ({', '.join(names)})")
    if not worse:
        return Html("")
    return _p(
        f"Embeddings are worse than codes here: {'; '.join(worse)}. That is no fault of the measurement: the embedding "
        "is the feature before the hash head, and only the head learns to bring the two sensors together, so its code "
        "can rank better although it has fewer bits. Within one sensor embeddings usually rank better."
    )


def _all_measures(measured: Evaluation) -> Html:
    directions = list(measured.measures[TRAINED])
    by_name = measured.measures[TRAINED]
    every = list(dict.fromkeys(name for direction in directions for name in by_name[direction]))
    compared = _compared(measured.k)
    plain = [name for name in every if not name.startswith(_EXPECTED) and name not in compared]
    expected = [name for name in every if name.startswith(_EXPECTED)]
    parts: list[object] = []
    for title, names in (("Order (distance, row)", plain), ("Expected over all orders of ties", expected)):
        rows = [
            (name.removeprefix(_EXPECTED).replace("_", " "), *(by_name[d].get(name, "–") for d in directions))
            for name in names
        ]
        parts += [element("h3", title), table(("measure", *map(_arrow, directions)), rows)]
    note = (
        "Codes have few distinct distances and therefore many ties; the second table does not depend on their order. "
        "The difference between the two is the effect of the order of rows. The first table leaves out what is "
        "compared above."
    )
    return section("Further measures of the trained codes", *parts, _p(note))


def _example_section(measured: Evaluation, source: str, target: str) -> Html:
    examples = list(_examples(measured, source, target))
    pictures = _pictures(measured, examples)
    ties = tie_note((e.distances for e in examples), measured.facts["bits"], "their rows in the table")
    rows = concat(_example_row(measured, example, pictures) for example in examples)
    return section(f"{SENSOR[source]} query, {SENSOR[target]} results".capitalize(), answers_legend(), ties, rows)


def _examples(measured: Evaluation, source: str, target: str) -> Iterator[_Example]:
    """Queries spread evenly over each split: their choice does not depend on their results."""
    gallery = measured.of_split(GALLERY_SPLIT)
    index = HammingIndex(measured.features[target].codes[gallery])
    for split, count in ((QUERY_SPLIT, EXAMPLES), (GALLERY_SPLIT, PARTNER_EXAMPLES)):
        pool = measured.of_split(split)
        chosen = pool[np.unique(np.linspace(0, len(pool) - 1, count + 2).astype(np.int64)[1:-1])]
        distances, hits = index.search(measured.features[source].codes[chosen], EXAMPLE_HITS)
        for query, found, far in zip(chosen, gallery[hits], distances, strict=True):
            yield _Example(source, target, int(query), found.tolist(), far.tolist())


def _pictures(measured: Evaluation, examples: list[_Example]) -> dict[tuple[int, str], bytes]:
    """PNG by (position, modality) of all patches of the examples."""
    wanted = {(e.query, e.source) for e in examples} | {(hit, e.target) for e in examples for hit in e.hits}
    patches = open_table(measured.patches)
    out = {}
    for modality, column, picture in (("s1", "s1", s1_composite), ("s2", "s2_10m", rgb)):
        positions = sorted({position for position, of in wanted if of == modality})
        if positions:
            pixels, _ = tensor_column(patches.take(measured.rows[positions], columns=[column]).column(column))
            for position, patch in zip(positions, pixels, strict=True):
                out[position, modality] = thumbnail_png(picture(patch))
    return out


def _example_row(measured: Evaluation, example: _Example, pictures: dict[tuple[int, str], bytes]) -> Html:
    query = _describe(measured, example.query)
    wanted = query["labels"]

    def card(position: int, patch: dict[str, Any], modality: str, caption: str, kind: str) -> Html:
        png = pictures[position, modality]
        return patch_card(png, patch["patch_id"], caption, patch["labels"], wanted, modality, kind)

    cards = [card(example.query, query, example.source, f"query · {query['country']}", "query")]
    for hit, distance in zip(example.hits, example.distances, strict=True):
        found = _describe(measured, hit)
        kind = "partner" if hit == example.query else "" if wanted & found["labels"] else "miss"
        cards.append(card(hit, found, example.target, f"{distance} · {found['country']}", kind))
    note = f"Query from the {query['split']} split"
    return concat([element("p", note, class_="soft"), element("div", concat(cards), class_="row")])


def _describe(measured: Evaluation, position: int) -> dict[str, Any]:
    row = measured.metadata.slice(position, 1).to_pylist()[0]
    return {**row, "labels": set(names_of(row["label_mask"]))}


def _training(history: list[dict[str, Any]]) -> Html:
    if not history:
        return section("Training", _p("The bundle records no history of its training."))
    if "epoch" in history[0]:
        return section("Training", _p("The page of training curves and curve.csv of the bundle have every step."))
    drawing, axes = chart(1, (6.4, 2.8))
    rounds = [row.get("round", number) for number, row in enumerate(history)]  # of a federated run
    for name, label, colour in (("loss", "training", "accent"), ("validation_loss", "validation", "warm")):
        if all(name in row for row in history):
            axes[0].plot(rounds, [row[name] for row in history], color=COLOURS[colour], label=label, linewidth=1.8)
    axes[0].set_xlabel("round")
    axes[0].set_ylabel("loss")
    axes[0].legend(frameon=False)
    return section("Training", figure(drawing, "Loss per round."))


def _bits(modality: str, statistics: BitStatistics) -> Html:
    drawing, (balance, correlation) = chart(2, (9.2, 3.0))
    balance.bar(range(len(statistics.ones)), statistics.ones, width=1.0, color=COLOURS["accent"])
    balance.axhline(0.5, color=COLOURS["warm"], linewidth=1.2)
    balance.set_ylim(0, 1)
    balance.set_xlabel("bit")
    balance.set_ylabel("share of ones")
    shown = correlation.imshow(statistics.correlation, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
    correlation.set_xlabel("bit")
    drawing.colorbar(shown, ax=correlation, label="correlation")
    caption = "Left: a balanced bit is one in half of the codes. Right: independent bits are white off the diagonal."
    rows = [(name.replace("_", " "), value) for name, value in statistics.summary().items()]
    title = f"Bits of the {SENSOR[modality]} codes ({GALLERY_SPLIT} split)"
    return section(title, figure(drawing, caption), table(("figure", "value"), rows))


def _p(text: str) -> Html:
    return element("p", text, class_="soft")
