"""Self-contained HTML pages: one file, no scripts, no external links, all text escaped.

Reports of evaluation, ingestion and the demo use this module. Functions that return HTML return :class:`Html`; other
values are text and are escaped when added to a page, so a patch or country name cannot inject markup.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CSS = """
:root{--ink:#1c2733;--soft:#5b6875;--line:#dfe5ea;--paper:#fff;--tint:#f4f7f9}
:root{--accent:#0b6e99;--good:#1a7f4b;--bad:#b3412f}
*{box-sizing:border-box}
body{margin:0;background:var(--tint);color:var(--ink)}
body{font:15px/1.5 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1240px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:26px;margin:0 0 4px}h2{font-size:18px;margin:0 0 10px}p{margin:6px 0}
.lead,.soft,figcaption{color:var(--soft)}
section{background:var(--paper);border:1px solid var(--line);border-radius:10px}
section{padding:18px 20px;margin:18px 0;overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:14px}
th,td{padding:5px 12px;border-bottom:1px solid var(--line);text-align:right}
td{white-space:nowrap;vertical-align:top}th{vertical-align:bottom}
td.text{white-space:normal;overflow-wrap:anywhere;text-align:left;min-width:90px}
th{color:var(--soft);font-weight:600}h3{font-size:15px;margin:16px 0 6px}
th:first-child,td:first-child{text-align:left;padding-left:0}
.tiles{display:flex;flex-wrap:wrap;gap:12px;margin:18px 0}
.tile{flex:1 1 180px;background:var(--paper);border:1px solid var(--line);border-radius:10px;padding:12px 16px}
.tile b{display:block;font-size:24px;color:var(--accent)}.tile span{color:var(--soft);font-size:13px}
figure{margin:0}figure img{max-width:100%;height:auto;display:block}
.row{display:flex;flex-wrap:wrap;gap:10px;margin:10px 0 18px}
.card{width:132px;flex:none;font-size:12px;line-height:1.35}
.card summary{list-style:none;cursor:zoom-in}.card summary::-webkit-details-marker{display:none}
.card .id{display:block;font-size:10px;line-height:1.25;overflow-wrap:anywhere;color:var(--soft)}
.card .picture,.card .band{display:block;background:var(--picture) center/cover}
.card[open]{width:486px}.card[open] .picture{width:486px;height:486px;image-rendering:pixelated}
.card .bands{display:flex;gap:6px}.card .band{width:158px;height:158px;image-rendering:pixelated}
.card[open] summary{cursor:zoom-out}
.swatch{display:inline-block;width:12px;height:12px;border-radius:3px;margin:0 4px 0 6px;vertical-align:-1px}
.card .picture{width:132px;height:132px;border-radius:6px;border:3px solid var(--line)}
.card.query .picture{border-color:var(--accent)}
.card.partner .picture{border-color:var(--good)}.card.miss .picture{border-color:var(--bad)}
.tag{display:inline-block;border-radius:4px;padding:0 5px;margin:2px 3px 0 0;background:var(--tint);color:var(--soft)}
.tag.shared{background:#e2f3e9;color:var(--good)}
footer{color:var(--soft);font-size:13px;margin-top:24px}
"""


class Html(str):
    """HTML that needs no escaping."""

    __slots__ = ()


def escape(value: object) -> Html:
    """HTML of a value: :class:`Html` unchanged, anything else escaped, quotes included."""
    return value if isinstance(value, Html) else Html(html.escape(str(value), quote=True))


def markdown(value: object) -> str:
    """Markdown of a text that shows as it is: no markup, HTML, links or line breaks of its own."""
    text = "".join(character if character.isprintable() else " " for character in str(value))
    text = re.sub(r"[\\`*|<>&\[\]~$]|@(?=[\w-]+\.)|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)
    return re.sub(r"(?i)(?<=:)(?=//)|(?<=\bwww)(?=\.)", r"\\", text)  # renderers make links of bare addresses


def markdown_code(value: object) -> str:
    """Markdown of a text as inline code."""
    text = "".join(character if character.isprintable() else " " for character in str(value))
    return "`" + text.replace("`", "'") + "`"


def concat(parts: Iterable[object]) -> Html:
    """Concatenation of the parts, text escaped."""
    return Html("".join(escape(part) for part in parts))


def element(tag: str, content: object = "", **attributes: str) -> Html:
    """Element ``<tag>content</tag>`` with escaped content and attributes; ``class_`` sets the CSS classes."""
    pairs = "".join(f' {name.rstrip("_")}="{html.escape(value)}"' for name, value in attributes.items())
    return Html(f"<{tag}{pairs}>{escape(content)}</{tag}>")


def page(title: str, lead: str, parts: Iterable[object], footer: str = "") -> str:
    """HTML document.

    Args:
        title: Heading and window title.
        lead: One sentence below the heading.
        parts: Sections, tiles and figures in order.
        footer: Source of the numbers.
    """
    body = concat([element("h1", title), element("p", lead, class_="lead"), *parts, element("footer", footer)])
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_CSS}</style></head><body><main>{body}</main></body></html>\n"
    )


def section(title: str, *parts: object) -> Html:
    """Section with a title."""
    return element("section", concat([element("h2", title), *parts]))


def tiles(figures: Mapping[str, str]) -> Html:
    """Row of key figures, caption -> value."""
    return element(
        "div",
        concat(
            element("div", concat([element("b", v), element("span", k)]), class_="tile") for k, v in figures.items()
        ),
        class_="tiles",
    )


def table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> Html:
    """Table; floats with four decimals, integers with thousands separators."""
    head = element("tr", concat(element("th", cell) for cell in header))
    body = concat(element("tr", concat(_column(cell) for cell in row)) for row in rows)
    return element("table", concat([element("thead", head), element("tbody", body)]))


_LONG_TEXT = 24
"""Characters of a cell from which it may break: paths and sentences push later columns out of the page."""


def _column(value: object) -> Html:
    if isinstance(value, str) and len(value) > _LONG_TEXT:
        return element("td", value, class_="text")
    return element("td", _cell(value))


def _cell(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return value


def png_uri(png: bytes) -> str:
    """URI ``data:`` of PNG bytes."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def image(png: bytes, alt: str) -> Html:
    """Element ``<img>`` with inline bytes."""
    return Html(f'<img src="{png_uri(png)}" alt="{html.escape(alt)}">')


def figure(fig: Figure, caption: str = "", dpi: int = 110) -> Html:
    """Matplotlib figure as inline PNG."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
    return element("figure", concat([image(buffer.getvalue(), caption), element("figcaption", caption)]))
