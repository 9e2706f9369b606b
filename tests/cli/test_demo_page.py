"""The page of the demo from answers as the service gives them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from eoforge.cli.demo.report import _page
from eoforge.cli.demo.service import Answer, Answers
from eoforge.client import Hit, IndexInfo, Patch
from eoforge.client.messages import PatchInfo

TIME = datetime(2017, 6, 13, tzinfo=UTC)
LABELS = ("Arable land", "Mixed forest")


def answer(distances: tuple[int, ...]) -> Answer:
    box = (0.0, 0.0, 1.0, 1.0)
    info = PatchInfo("QUERY_0", "S1", "test", "Austria", LABELS, False, False, TIME, TIME, "33TWN", 32633, 0, 0, box)
    hits = [
        Hit(f"HIT_{n}", "s2", distance, LABELS[:1] if n else ("Pastures",), "Austria", "test", TIME, 32633, box, b"png")
        for n, distance in enumerate(distances)
    ]
    return Answer(Patch(info, b"one", b"two", {}, None), "s1", "s2", "whole archive", hits, 12.0)


def page(*answers: tuple[int, ...]) -> str:
    index = IndexInfo("codes", 1, "ss_cm_rsir", "0" * 64, 128, 64, 1, {"s1": 9, "s2": 9}, {})
    figures = {"patches_in": 10, "quarantined": 1, "search_p50_ms": 2.0, "seconds": 77.0}
    seconds = {"archive": 33.0, "service": 44.0}
    return _page(figures, {"recall": 0.5}, Answers(index, [answer(d) for d in answers], [1.0]), seconds)


def test_six_hits_at_zero_are_explained() -> None:
    tied = page((0,) * 6, (1, 2, 3, 4, 5, 6))
    assert "In 1 of 2 answers hits tie: codes of 128 bits" in tied
    assert "every shown hit has the distance 0" in tied
    assert "in the order of their patch ids" in tied
    assert "hits tie" not in page((1, 2, 3, 4, 5, 6))


def test_every_card_names_its_patch_and_bands() -> None:
    html = page((0, 1, 2))
    assert re.findall(r'<code class="id">([^<]+)', html) == ["QUERY_0", "HIT_0", "HIT_1", "HIT_2"]
    assert html.count("<details class=") == 4
    assert html.count("red B04, green B03, blue B02") == 3
    assert html.count("red VV, green VH") == 2  # the query's card, and the legend
    assert html.count('class="card miss"') == 1
    assert html.count('class="swatch"') == 4


def test_the_time_of_the_whole_job_stands_once() -> None:
    html = page((0, 1))
    assert html.count("77 s") == 1
    assert "77.0" not in html
