"""Answered queries as pictures: cards of patches, the legend of their colours, and a note on ties."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from eoforge.data.loading.plot import radar_colours
from eoforge.report import Html, concat, element, png_uri

_CHANNELS = {"s1": ("VV", "VH", "VV minus VH"), "s2": ("B04", "B03", "B02")}
"""What red, green and blue of a picture show."""
BANDS_SHOWN = {
    "s1": "Sentinel-1: red VV, green VH, blue VV minus VH, each over its usual range in dB; 120 x 120 pixels of 10 m.",
    "s2": "Sentinel-2: red B04, green B03, blue B02, stretched to the patch; 120 x 120 pixels of 10 m.",
}


def answers_legend() -> Html:
    """Paragraphs on borders, numbers and colours of the cards."""
    borders = (
        "Blue border: the query. Green: the same place seen by the other sensor. Red: no label in common. The number "
        "is the Hamming distance of the codes; labels of the query are green. Click a picture for a large one and "
        "each of its bands."
    )
    return concat([element("p", borders, class_="soft"), radar_legend()])


def band_filters() -> Html:
    """Filters that show one channel of a picture in grey; a page with cards of patches has them once."""
    filters = concat(
        Html(
            f'<filter id="band-{number}" color-interpolation-filters="sRGB"><feColorMatrix values="'
            + f"{' '.join('1' if column == number else '0' for column in range(5))} " * 3
            + '0 0 0 1 0"/></filter>'
        )
        for number in range(3)
    )
    return Html(f'<svg width="0" height="0" aria-hidden="true">{filters}</svg>')


def radar_legend() -> Html:
    """Paragraph on the colours of radar pictures."""
    swatches = concat(
        concat([element("i", "", class_="swatch", style=f"background:{colour}"), f"{what} "])
        for what, colour in radar_colours().items()
    )
    bands = BANDS_SHOWN["s1"].removeprefix("Sentinel-1: ")
    return element("p", concat(["Radar pictures: ", swatches, f"({bands})"]), class_="soft")


def tie_note(answers: Iterable[Sequence[int]], bits: int, order: str) -> Html:
    """Paragraph on hits of equal distance; empty if every answer has distinct distances.

    Args:
        answers: Distances of the hits of each query, ascending.
        bits: Code length.
        order: Order of hits with the same distance.
    """
    answers = [list(distances) for distances in answers]
    tied = sum(len(set(distances)) < len(distances) for distances in answers)
    if not tied:
        return Html("")
    text = (
        f"In {tied} of {len(answers)} answers hits tie: codes of {bits} bits have few distinct distances, and patches "
        f"that look alike share them. Hits with the same distance are in the order of {order}, which says nothing "
        "about their similarity."
    )
    if zero := sum(bool(distances) and not any(distances) for distances in answers):
        text += (
            f" In {zero} of them every shown hit has the distance 0: more patches share the code of the query than are "
            "shown, so the partner may be among those that follow. Longer codes (bits=...) or more training tell them "
            "apart."
        )
    return element("p", text, class_="soft")


def patch_card(
    png: bytes, patch_id: str, caption: str, labels: Collection[str], wanted: Collection[str], modality: str, kind: str
) -> Html:
    """Card of a patch: picture, caption, id and labels; a click shows the picture large, and each of its bands.

    Args:
        png: Picture.
        patch_id: Name of the patch.
        caption: Text below the picture.
        labels: Labels of the patch.
        wanted: Labels of the query, shown in green.
        modality: ``s1`` or ``s2``, the sensor of the picture.
        kind: ``query``, ``partner``, ``miss`` or empty: the colour of the border.
    """
    tags = concat(
        element("span", label.split(", with")[0], class_="tag shared" if label in wanted else "tag", title=label)
        for label in sorted(labels)
    )
    name = element("code", patch_id, class_="id")
    shown = element("span", class_="picture", role="img", **{"aria-label": patch_id})
    seen = [shown, element("span", caption), name, element("div", tags)]
    bands = concat(
        element(
            "figure",
            concat([element("span", class_="band", style=f"filter:url(#band-{number})"), element("figcaption", band)]),
        )
        for number, band in enumerate(_CHANNELS[modality])
    )
    large = [element("p", BANDS_SHOWN[modality], class_="soft"), element("div", bands, class_="bands")]
    # The picture is there once: a style shows it small, large and band by band.
    style = f"--picture:url({png_uri(png)})"
    parts = [element("summary", concat(seen)), *large]
    return element("details", concat(parts), class_=f"card {kind}".strip(), style=style)
