"""Output of all commands: one result for people or as JSON, and one exit code per kind of failure."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eoforge.errors import EoforgeError
from eoforge.logs import configure_logs, printable

_state = {"json": False}
_out = Console()
_err = Console(stderr=True)
_piped = Console(width=100_000)
"""Console of results that go to a file or a pipe: a line is as long as its content."""


def configure(as_json: bool) -> bool:
    """Selects JSON or human output for this process and returns the choice; logs always go to standard error."""
    _state["json"] = as_json
    configure_logs(as_json=as_json or not sys.stderr.isatty())
    return as_json


Json = Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON.", callback=configure)]
"""Option ``--json``, which every command has."""


def as_dict(result: Any) -> dict[str, Any]:
    """Plain dict of a result dataclass or mapping."""
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return dataclasses.asdict(result)
    return dict(result)


def emit(result: Any, *, title: str | None = None, details: Mapping[str, Any] | None = None) -> None:
    """Prints a flat result: one JSON line with ``--json``, a two-column table otherwise.

    Args:
        result: Dataclass or mapping.
        title: Title of the table.
        details: Further values for machines only, such as lists that people saw line by line.
    """
    values = as_dict(result)
    if _state["json"]:
        _json_line(values | dict(details or {}), sys.stdout)
        return
    table = _table(title, ["", ""], show_header=False)
    for key, value in values.items():
        text = ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
        table.add_row(_shown(key.replace("_", " ")), _shown(text))
    _print(table)


def emit_rows(
    rows: list[dict[str, Any]], *, title: str | None = None, line: Callable[[dict[str, Any]], str] | None = None
) -> None:
    """Prints rows: a JSON list with ``--json``; otherwise one ``line`` each if given, or a table."""
    if _state["json"]:
        _json_line(rows, sys.stdout)
        return
    if line:
        for row in rows:
            print(printable(line(row)))
        return
    columns = [_shown(key.replace("_", " ")) for key in (rows[0] if rows else {})]
    table = _table(title, columns)
    for row in rows:
        table.add_row(*("" if value is None else _shown(str(value)) for value in row.values()))
    _print(table)


def say(text: str) -> None:
    """Prints a line for people on standard error, separate from results."""
    if not _state["json"]:
        _err.print(printable(text), highlight=False, soft_wrap=True)


def fail(error: EoforgeError) -> int:
    """Prints ``error`` and returns the exit code of its kind.

    The reason of a remote error is that of the service, or the gRPC status if the service could not be reached.
    """
    remote = getattr(error, "remote_reason", "") or getattr(error, "code", "")
    return fail_with(remote or error.reason, str(error), error.exit_code)


def fail_with(reason: str, message: str, exit_code: int) -> int:
    """Prints a failure, as JSON on standard error with ``--json``, and returns ``exit_code``."""
    if _state["json"]:
        _json_line({"error": {"reason": reason, "message": message, "exit_code": exit_code}}, sys.stderr)
    else:
        _err.print(f"[bold red]error[/] ({reason}): ", end="")
        _err.print(printable(message), markup=False, highlight=False, soft_wrap=True)
    return exit_code


def _table(title: str | None, columns: Sequence[str], show_header: bool = True) -> Table:
    """Empty table whose long words are folded: rich would cut them."""
    table = Table(title=title and _shown(title), title_justify="left", show_header=show_header)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(table: Table) -> None:
    (_out if sys.stdout.isatty() else _piped).print(table)


def _shown(text: str) -> str:
    """Text of a cell: no markup of rich, no control characters; paths, archives and silos bring their own."""
    return escape(printable(text))


def _json_line(value: Any, stream: TextIO) -> None:
    """Writes one line in one call of ``write``, because the ranks of a training share their output.

    rich would wrap the line to the width of the terminal. ``print`` writes text and newline in two calls when Python is
    unbuffered, as in pods, and the lines of two ranks would mix.
    """
    stream.write(json.dumps(value, default=str) + "\n")
    stream.flush()
