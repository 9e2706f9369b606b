"""Root of the command line: the commands, and their exit codes.

Every command wraps one plain function of the library, takes ``--json``, and ends with 0 (done), 2 (usage), 3 (data
refused) or 1 (anything else). Heavy imports stay inside the functions so that ``eoforge --help`` answers at once.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from typing import Annotated

import typer
from typer import rich_utils

from eoforge.cli.annotate import annotate_app
from eoforge.cli.compression.commands import compress, decompress, inspect
from eoforge.cli.console import console
from eoforge.cli.construct import construct
from eoforge.cli.demo.command import demo
from eoforge.cli.doctor import doctor
from eoforge.cli.evaluate import evaluate
from eoforge.cli.export import export
from eoforge.cli.federate.commands import federate_app
from eoforge.cli.index import index
from eoforge.cli.ingest import ingest
from eoforge.cli.labels import audit, noise, review
from eoforge.cli.output import configure, fail, fail_with
from eoforge.cli.predict import predict
from eoforge.cli.runs import runs
from eoforge.cli.search import search
from eoforge.cli.serve import serve_app
from eoforge.cli.synth import synth
from eoforge.cli.train import train
from eoforge.errors import EoforgeError, StoreError, UsageError
from eoforge.geo.gdal import confine_process

confine_process()

app = typer.Typer(
    name="eoforge",
    help="Search, compress and learn from satellite archives without moving the pixels.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: dict[str, Callable[..., None]] = {
    "search": search,
    "compress": compress,
    "decompress": decompress,
    "inspect": inspect,
    "synth": synth,
    "ingest": ingest,
    "construct": construct,
    "export": export,
    "train": train,
    "runs": runs,
    "eval": evaluate,
    "index": index,
    "predict": predict,
    "noise": noise,
    "audit": audit,
    "review": review,
    "console": console,
    "doctor": doctor,
    "demo": demo,
}


def _version(wanted: bool) -> None:
    if wanted:
        from eoforge.bundle import code_revision

        print(f"eoforge {version('eoforge')} (revision {code_revision()})")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Search, compress and learn from satellite archives without moving the pixels."""


for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(serve_app, name="serve")
app.add_typer(federate_app, name="federate")
app.add_typer(annotate_app, name="annotate")

_PIPED_WIDTH = 160
"""Width of help texts that go to a file or a pipe."""
_INTERRUPTED = 130
"""Exit code of typer on Ctrl-C."""
_TYPER_USAGE: type[Exception] = typer.BadParameter.__mro__[1]
"""Error of typer for a malformed call; it has no public name."""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code; pipelines and tests call this function too."""
    args = sys.argv[1:] if argv is None else argv
    as_json = configure("--json" in args)
    # In a pipe rich takes 80 columns and cuts what is longer.
    rich_utils.MAX_WIDTH = None if sys.stdout.isatty() else _PIPED_WIDTH
    try:
        # Typer prints its own errors for people; with --json they are caught below and become one line of JSON.
        code = app(args=args, standalone_mode=not as_json)
        return _ended(code if isinstance(code, int) else 0)
    except EoforgeError as error:
        return fail(error)
    except _TYPER_USAGE as error:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        return fail(UsageError(f"{message} See `eoforge --help`, or --help after the command."))
    except SystemExit as end:  # raised by typer: 0, or 2 after a usage error that typer has printed
        return _ended(end.code if isinstance(end.code, int) else 1)
    except Exception as error:  # a bug, or a failure of the machine: callers with --json still get one line
        if isinstance(error, OSError) and error.errno is not None:
            place = "" if error.filename is None else f": {error.filename}"
            advice = "Check that path, its permissions and the free space of its disk, then run the command again."
            return fail(StoreError(f"the operating system refused: {error.strerror}{place}. {advice}"))
        traceback.print_exc()
        return fail_with(
            EoforgeError.reason,
            f"{type(error).__name__}: {error}. Unexpected error: if disk and memory are in order, report "
            "the lines above as a bug of eoforge.",
            EoforgeError.exit_code,
        )


def _ended(code: int) -> int:
    """Exit code, after a message to a user who interrupted the command."""
    if code != _INTERRUPTED:
        return code
    message = "interrupted; ingest, construct, train, index, predict and demo resume when they are run again"
    return fail_with("INTERRUPTED", message, code)


def entry() -> None:
    """Console script.

    The process ends by ``os._exit`` after all threads of Python and all exit functions have ended: threads of Lance's
    runtime outlive them, and a thread that asks for the interpreter while it is torn down aborts the process.
    """
    codes: list[int] = []
    atexit.register(lambda: _end(codes))  # the first registered runs last
    codes.append(main())


def _end(codes: list[int]) -> None:
    if codes:  # empty after an exception that main raises: Python prints it and chooses the exit code
        logging.shutdown()
        with suppress(OSError):  # a reader of the output that is gone
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(codes[0])
