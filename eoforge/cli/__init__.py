"""The ``eoforge`` command.

Every command wraps one plain function of the library, takes ``--json``, and ends with 0 (done), 2 (usage), 3 (data
refused) or 1 (anything else). This package alone may import ``services`` and ``pipelines``, and heavy imports stay
inside the functions so that ``eoforge --help`` answers at once.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from eoforge.cli import output
from eoforge.cli.compression.commands import register_compression
from eoforge.cli.federate.commands import federate_app
from eoforge.cli.output import Json
from eoforge.cli.search import register_search
from eoforge.errors import EoforgeError, StoreError, UsageError

app = typer.Typer(
    name="eoforge",
    help="Search, compress and learn from satellite archives without moving the pixels.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
serve_app = typer.Typer(help="Run one of the services.", no_args_is_help=True)
app.add_typer(serve_app, name="serve")
app.add_typer(federate_app, name="federate")
register_search(app)
register_compression(app)


_INTERRUPTED = 130
"""How typer ends on Ctrl-C."""
_TYPER_USAGE: type[Exception] = typer.BadParameter.__mro__[1]
"""What typer raises for a malformed call; it has no public name of its own."""

Preset = Annotated[str, typer.Option(help="tiny (a laptop's CPU, minutes) or paper (the published configuration).")]


@app.command()
def synth(
    out: Annotated[str, typer.Argument(help="Folder to write; must be empty or absent.")],
    patches: Annotated[int, typer.Option(min=1, help="Number of patch pairs.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    json: Json = False,
) -> None:
    """Write a synthetic archive in the official reBEN layout."""
    from eoforge.data.synthetic.archive import generate_archive

    output.emit(generate_archive(out, patches, seed, workers=workers), title="synthetic archive")


@app.command()
def ingest(
    archive: Annotated[str, typer.Argument(help="Directory, s3:// prefix, folder of .tar/.tar.zst, or rico-hdl LMDB.")],
    table: Annotated[str, typer.Argument(help="Lance table to create or grow: a path or s3:// URI.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes that read and write shards.")] = 1,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse the whole archive if one patch is bad.")] = False,
    json: Json = False,
) -> None:
    """Ingest an archive into a Lance table, exactly once; run it again after any interruption."""
    from eoforge.data.ingest.run import ingest as run
    from eoforge.data.ingest.run import require_some_taken

    summary = run(archive, table, workers=workers, strict=strict)
    output.emit(summary, title="ingested")
    require_some_taken(summary)


@app.command()
def train(
    method: Annotated[str, typer.Argument(help="Name of the method, for example ss_cm_rsir.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Configuration overrides, key=value.")] = None,
    data: Annotated[str, typer.Option(help="TABLE or TABLE@VERSION.")] = ...,  # type: ignore[assignment]  # typer: required
    out: Annotated[str, typer.Option(help="Where run bundles go: a path or s3:// URI.")] = ...,  # type: ignore[assignment]  # typer: required
    preset: Preset = "tiny",
    config: Annotated[Path | None, typer.Option(help="Configuration file; overrides win over it.")] = None,
    json: Json = False,
) -> None:
    """Train a method and write a run bundle; an interrupted run resumes where it stopped."""
    from eoforge.methods import get_method
    from eoforge.storage.addresses import TableRef

    chosen = get_method(method)
    settings = chosen.config(preset, _pairs(overrides or []), str(config) if config else None)
    bundle = chosen.train(TableRef.parse(data), out, settings)
    # Under torchrun every rank gets here; one line of result is enough.
    if _rank() == 0:
        output.emit({"bundle": bundle.uri, "bundle_id": bundle.id, **_scalars(bundle.metrics)}, title="trained")


@app.command("eval")
def evaluate(
    bundle: Annotated[str, typer.Argument(help="Run bundle: a path or s3:// URI.")],
    data: Annotated[str, typer.Option(help="TABLE or TABLE@VERSION.")] = ...,  # type: ignore[assignment]  # typer: required
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Cut-off of the metrics.")] = 10,
    out: Annotated[str | None, typer.Option(help="Folder for metrics.json and report.html.")] = None,
    json: Json = False,
) -> None:
    """Evaluate a bundle by its tasks: retrieval, labels and compression, with baselines."""
    from eoforge.bundle import load_bundle
    from eoforge.methods.evaluation.run import evaluate as run
    from eoforge.storage.addresses import TableRef

    output.emit(run(load_bundle(bundle), TableRef.parse(data), k=k, out=out), title="evaluation")


@app.command()
def index(
    bundle: Annotated[str, typer.Argument(help="Run bundle that encodes.")],
    table: Annotated[str, typer.Argument(help="TABLE or TABLE@VERSION with the patches.")],
    codes: Annotated[str, typer.Argument(help="Lance table for the codes.")],
    json: Json = False,
) -> None:
    """Encode every patch of a table into binary codes, exactly once."""
    from eoforge.bundle import load_bundle
    from eoforge.index.build import build_index
    from eoforge.methods import get_method
    from eoforge.storage.addresses import TableRef

    made = load_bundle(bundle)
    encoder = get_method(str(made.config["method"])).load(made)
    output.emit(build_index(bundle, TableRef.parse(table), codes, encoder), title="indexed")


@serve_app.command("retrieval")
def serve_retrieval(
    codes: Annotated[str | None, typer.Option(help="codes.lance to serve [EOFORGE_CODES_URI].")] = None,
    host: Annotated[str | None, typer.Option(help="Address to bind [EOFORGE_HOST].")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="gRPC port [EOFORGE_PORT].")] = None,
    rest_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="REST and metrics port [EOFORGE_REST_PORT].")
    ] = None,
    json: Json = False,
) -> None:
    """Serve retrieval: the typed gRPC API and KServe's Open Inference Protocol V2 in one process."""
    from services.retrieval.server import run
    from services.retrieval.settings import RetrievalSettings

    given = {"codes_uri": codes, "host": host, "port": port, "rest_port": rest_port}
    run(RetrievalSettings(**{k: v for k, v in given.items() if v is not None}))


@serve_app.command("federation")
def serve_federation(
    store: Annotated[str | None, typer.Option(help="Where runs are kept [EOFORGE_FEDERATION_URI].")] = None,
    host: Annotated[str | None, typer.Option(help="Address to bind [EOFORGE_HOST].")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="gRPC port [EOFORGE_PORT].")] = None,
    rest_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="REST and metrics port [EOFORGE_REST_PORT].")
    ] = None,
    json: Json = False,
) -> None:
    """Serve federation: the coordinator that silos and operators talk to."""
    from services.federation.server import run
    from services.federation.settings import FederationSettings

    given = {"federation_uri": store, "host": host, "port": port, "rest_port": rest_port}
    run(FederationSettings(**{k: v for k, v in given.items() if v is not None}))


@serve_app.command("compression")
def serve_compression(
    bundle: Annotated[
        list[str] | None, typer.Option(help="Run bundle of a codec (repeat) [EOFORGE_BUNDLE_URIS].")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to bind [EOFORGE_HOST].")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="gRPC port [EOFORGE_PORT].")] = None,
    rest_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="REST and metrics port [EOFORGE_REST_PORT].")
    ] = None,
    json: Json = False,
) -> None:
    """Serve compression: the typed gRPC API and KServe's Open Inference Protocol V2 in one process."""
    from services.compression.server import run
    from services.compression.settings import CompressionSettings

    bundles = ",".join(bundle) if bundle else None
    given = {"bundle_uris": bundles, "host": host, "port": port, "rest_port": rest_port}
    run(CompressionSettings(**{k: v for k, v in given.items() if v is not None}))


@app.command()
def doctor(
    uri: Annotated[str | None, typer.Argument(help="Store to probe: a path or s3:// URI.")] = None,
    json: Json = False,
) -> None:
    """Probe this machine and, if named, an object store: credentials, racing conditional PUTs, range reads."""
    from eoforge.storage.doctor import probe_machine, probe_store

    checks = probe_machine() + (probe_store(uri) if uri else [])
    output.emit_rows([output.as_dict(c) for c in checks], title="doctor")
    failed = [c for c in checks if not c.ok]
    if failed:
        raise StoreError("; ".join(map(str, failed)))


@app.command()
def demo(
    archive: Annotated[str | None, typer.Option(help="An archive of yours; a synthetic one is made otherwise.")] = None,
    store: Annotated[
        str | None, typer.Option(help="s3:// URI or folder for tables and runs; 'seaweedfs' starts an S3 server.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    method: Annotated[str, typer.Option(help="Method to train.")] = "ss_cm_rsir",
    patches: Annotated[int, typer.Option(min=60, help="Size of the synthetic archive.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the synthetic archive.")] = 0,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Training override, key=value (repeat).")] = None,
    json: Json = False,
) -> None:
    """Run the main job end to end: archive, table, trained model, index, running service, answered queries, report."""
    from eoforge.cli.demo.run import run_demo

    result = run_demo(
        out,
        archive=archive,
        store=store,
        method=method,
        patches=patches,
        seed=seed,
        overrides=_pairs(overrides or []),
    )
    output.emit(result, title="demo")


def _pairs(overrides: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"expected configuration overrides as key=value; got {text!r}")
        pairs[key.strip()] = value
    return pairs


def _scalars(metrics: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in metrics.items() if isinstance(v, int | float | str)}


def _rank() -> int:
    import os

    return int(os.environ.get("RANK", "0"))


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code; this is also what pipelines and tests call."""
    args = sys.argv[1:] if argv is None else argv
    as_json = output.configure("--json" in args)
    try:
        # For people typer draws its own errors; for programs they are caught below and become our line of JSON.
        code = app(args=args, standalone_mode=not as_json)
        return _ended(code if isinstance(code, int) else 0)
    except EoforgeError as error:
        return output.fail(error)
    except _TYPER_USAGE as error:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        return output.fail(UsageError(f"{message} See `eoforge --help`, or --help after the command."))
    except SystemExit as end:  # typer's own ending: 0, or 2 after it printed what is wrong with the call
        return _ended(end.code if isinstance(end.code, int) else 1)
    except Exception as error:  # a bug of ours, or a machine that fails: callers that read JSON still get their line
        if isinstance(error, OSError) and error.errno is not None:
            place = "" if error.filename is None else f": {error.filename}"
            advice = "Check that path, its permissions and the free space of its disk, then run the command again."
            return output.fail(StoreError(f"this machine refused: {error.strerror}{place}. {advice}"))
        traceback.print_exc()
        return output.fail_with(
            EoforgeError.reason,
            f"{type(error).__name__}: {error}. Expected nothing of the kind: if disk and memory are in order, report "
            "the lines above as a bug of eoforge.",
            EoforgeError.exit_code,
        )


def _ended(code: int) -> int:
    """Tells an interrupted user that nothing is lost."""
    if code != _INTERRUPTED:
        return code
    message = "stopped; ingest, train, index and demo go on where they stopped when they are run again"
    return output.fail_with("INTERRUPTED", message, code)


def entry() -> None:
    """Console script."""
    sys.exit(main())
