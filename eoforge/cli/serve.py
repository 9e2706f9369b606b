"""``eoforge serve``: the services, each in one process."""

from __future__ import annotations

from typing import Annotated

import typer

from eoforge.cli.options import Bind, expand
from eoforge.cli.output import Json

serve_app = typer.Typer(help="Run one of the services.", no_args_is_help=True)


@serve_app.command("retrieval")
@expand
def retrieval(
    codes: Annotated[str | None, typer.Option(help="codes.lance to serve [EOFORGE_CODES_URI].")] = None,
    *,
    bind: Bind,
    json: Json = False,
) -> None:
    """Serve retrieval: the typed gRPC API and KServe's Open Inference Protocol V2 in one process."""
    from services.retrieval.server import run
    from services.retrieval.settings import RetrievalSettings

    run(RetrievalSettings(**bind.settings(codes_uri=codes)))


@serve_app.command("federation")
@expand
def federation(
    store: Annotated[str | None, typer.Option(help="Where runs are kept [EOFORGE_FEDERATION_URI].")] = None,
    *,
    bind: Bind,
    json: Json = False,
) -> None:
    """Serve federation: the coordinator that silos and operators talk to."""
    from services.federation.server import run
    from services.federation.settings import FederationSettings

    run(FederationSettings(**bind.settings(federation_uri=store)))


@serve_app.command("compression")
@expand
def compression(
    bundle: Annotated[
        list[str] | None, typer.Option(help="Run bundle of a codec (repeat) [EOFORGE_BUNDLE_URIS].")
    ] = None,
    *,
    bind: Bind,
    json: Json = False,
) -> None:
    """Serve compression: the typed gRPC API and KServe's Open Inference Protocol V2 in one process."""
    from services.compression.server import run
    from services.compression.settings import CompressionSettings

    run(CompressionSettings(**bind.settings(bundle_uris=",".join(bundle) if bundle else None)))


@serve_app.command("prediction")
@expand
def prediction(
    bundle: Annotated[
        list[str] | None,
        typer.Option(help="Run bundle that classifies, segments or regresses (repeat) [EOFORGE_BUNDLE_URIS]."),
    ] = None,
    *,
    bind: Bind,
    json: Json = False,
) -> None:
    """Serve predictions: KServe's Open Inference Protocol V2, labels and maps, or values, of patches."""
    from services.prediction.server import run
    from services.prediction.settings import PredictionSettings

    run(PredictionSettings(**bind.settings(bundle_uris=",".join(bundle) if bundle else None)))
