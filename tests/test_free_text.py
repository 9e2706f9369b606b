"""Texts of archives and silos are shown as texts: no markup in Markdown, no control characters on terminals."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
import structlog
from rich.console import Console

from eoforge import logs
from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.bundle import model_card
from eoforge.cli import output
from eoforge.cli.federate.timeline import Timeline
from eoforge.errors import DataRefused
from eoforge.report import markdown, markdown_code
from eoforge.storage.addresses import TableRef
from pipelines.reports.retrieval import metrics_markdown

HOSTILE = (
    "f1 | x |\n# <img src=https://evil.example/a> ![a](http://evil.example) [b](c) www.evil.example `code` *b* \x1b[2J"
)
ACTIVE = re.compile(r"(?<!\\)[<\[*`]|(?<!\\)\||https?://|www\.|\x1b")


def test_markdown_shows_a_text_and_nothing_else() -> None:
    shown = markdown(HOSTILE)
    assert not ACTIVE.search(shown), shown
    assert "\n" not in shown
    assert markdown("f1_micro 0.5 (s2), mixed-austria") == "f1_micro 0.5 (s2), mixed-austria"
    assert markdown_code("a`b\n\x1b") == "`a'b  `"


def test_names_that_silos_choose_are_text_in_cards_and_overviews() -> None:
    card = model_card("method", "Opening.", measured="Measured.", figures={HOSTILE: 1.0}, silos={HOSTILE: 3})
    rows = [line for line in card.splitlines() if "evil" in line]
    assert len(rows) == 2
    overview = metrics_markdown(HOSTILE, TableRef("/a`b"), {HOSTILE: 0.5})
    for line in (*rows, *(line for line in overview.splitlines() if "evil" in line)):
        cells = line.removeprefix("# ").removeprefix("| ").removesuffix(" |")
        assert not re.search(r"(?<!\\)[<\[*`]|https?://|\x1b", cells), line


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    written = io.StringIO()
    for console in ("_out", "_err", "_piped"):
        monkeypatch.setattr(output, console, Console(file=written, width=300, force_terminal=False))
    monkeypatch.setitem(output._state, "json", False)
    return written


def test_terminals_show_what_others_wrote_as_text(terminal: io.StringIO) -> None:
    hostile = "[bold]x[/] \x1b]0;title\x07 \x9b2J \u202egpj"
    output.emit({hostile: hostile}, title=hostile)
    output.emit_rows([{hostile: hostile}], title=hostile)
    output.fail(DataRefused(hostile))
    timeline = Timeline({})
    summary = pb.RoundSummary(number=1, training={hostile: 1.0})
    timeline.record(pb.RunEvent(round_closed=pb.RoundClosed(summary=summary)))
    shown = terminal.getvalue()
    assert shown.count("[bold]x[/]") == 8
    assert all(character.isprintable() or character == "\n" for character in shown)


def test_rows_of_lines_are_printable_too(capsys: pytest.CaptureFixture[str], terminal: io.StringIO) -> None:
    output.emit_rows([{"name": "a\x1b[2Jb"}], line=lambda row: str(row["name"]))
    assert capsys.readouterr().out == "a?[2Jb\n"


def test_logs_for_people_hold_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    before: dict[str, Any] = structlog.get_config()
    try:
        logs.configure_logs(as_json=False)
        structlog.get_logger("t").warning("answered", why="a\x1b]0;title\x07b")
    finally:
        structlog.configure(**before)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().err)  # structlog's own colours
    assert "a?]0;title?b" in shown
    assert "\x1b" not in shown
