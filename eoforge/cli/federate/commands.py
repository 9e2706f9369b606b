"""``eoforge federate``: start and watch runs, take part as a silo."""

from __future__ import annotations

import datetime as dt
import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from eoforge.cli import output
from eoforge.cli.federate.ca import ca_app
from eoforge.cli.options import Connection, expand, parse_overrides
from eoforge.cli.output import Json
from eoforge.client.federation_text import brief, line, status_name
from eoforge.errors import EoforgeError, UsageError

if TYPE_CHECKING:
    from eoforge.api.federation.v1 import federation_pb2 as pb
    from eoforge.client.federation import FederationClient

federate_app = typer.Typer(help="Federated learning: silos keep their data, only updates travel.", no_args_is_help=True)
federate_app.add_typer(ca_app, name="ca")

RunId = Annotated[str, typer.Argument(help="Name of the run.")]
APPEARS_SECONDS = 600.0


@federate_app.command("run")
@expand
def run(
    method: Annotated[str, typer.Argument(help="Method that silos train: fl_rs or mm_fl.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Configuration overrides, key=value.")] = None,
    run_id: Annotated[str, typer.Option("--name", help="Name of the run; makes the command safe to repeat.")] = "",
    preset: Annotated[str, typer.Option(help="tiny or paper.")] = "tiny",
    config: Annotated[Path | None, typer.Option(help="Configuration file; overrides win over it.")] = None,
    policy: Annotated[
        Path | None,
        typer.Option(help="JSON file with policy, privacy and data of a RunSpec (see the proto); options win over it."),
    ] = None,
    statistics: Annotated[str | None, typer.Option(help="TABLE whose band statistics all silos normalise by.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds.")] = None,
    min_silos: Annotated[int | None, typer.Option(min=1, help="Silos that must be there for a round to open.")] = None,
    quorum: Annotated[int | None, typer.Option(min=1, help="Least updates of a round.")] = None,
    deadline: Annotated[float | None, typer.Option(min=0.001, help="Seconds after which a round is sealed.")] = None,
    evaluate_every: Annotated[int | None, typer.Option(min=0, help="Silos evaluate every N rounds; 0: never.")] = None,
    silo: Annotated[list[str] | None, typer.Option(help="Only these silos (repeat).")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost and stop.")] = False,
    *,
    connection: Connection,
    json: Json = False,
) -> None:
    """Start a run. Watch it with `eoforge federate watch`."""
    from eoforge.api.federation.v1 import federation_pb2 as pb
    from eoforge.methods.federated_launch import prepare, upload_model

    spec, model, roles = prepare(
        method, preset, parse_overrides(overrides), str(config) if config else None, statistics
    )
    _merge_policy(spec, policy)
    if rounds is not None:
        spec.policy.rounds = rounds
    if min_silos is not None:
        spec.policy.min_silos = min_silos
    spec.policy.min_silos = spec.policy.min_silos or 1
    if quorum is not None:
        spec.policy.quorum = quorum
    if deadline is not None:
        spec.policy.deadline.FromTimedelta(dt.timedelta(seconds=deadline))
    if evaluate_every is not None:
        spec.policy.evaluate_every = evaluate_every
    spec.silos.extend(silo or [])
    with _client(connection) as client:
        upload_model(client, spec, model, roles)
        if dry_run:
            estimate = client.estimate(pb.EstimateRunRequest(spec=spec))
            output.emit({f.name: v for f, v in estimate.ListFields()}, title="estimate")
            return
        output.emit(brief(client.create_run(spec, run_id)), title="run")


@federate_app.command("watch")
@expand
def watch(
    run_id: RunId,
    *,
    connection: Connection,
    json: Json = False,
) -> None:
    """Follow a run until it ends: one line an event."""
    from google.protobuf import json_format

    with _client(connection) as client:
        for event in client.watch(run_id):
            if json:
                print(json_module.dumps(json_format.MessageToDict(event, preserving_proto_field_name=True)), flush=True)
            else:
                output.say(escape(line(event)))
        done = client.run(run_id)
        output.emit(brief(done), title="run")
    from eoforge.api.federation.v1 import federation_pb2 as pb

    if done.status == pb.RUN_STATUS_FAILED:
        raise EoforgeError(f"run {run_id} failed: {done.failure}")


@federate_app.command("list")
@expand
def list_runs(
    silos: Annotated[bool, typer.Option("--silos", help="List silos instead of runs.")] = False,
    *,
    connection: Connection,
    json: Json = False,
) -> None:
    """List runs, or silos."""
    with _client(connection) as client:
        if silos:
            rows = [
                {
                    "silo": s.silo_id,
                    "modalities": ", ".join(s.modalities),
                    "samples": s.samples,
                    "connected": s.connected,
                    "last_seen": s.last_seen.ToJsonString(),
                    "activity": s.activity,
                }
                for s in client.silos()
            ]
            output.emit_rows(rows, title="silos")
        else:
            output.emit_rows([brief(r) for r in client.runs()], title="runs")


@federate_app.command("cancel")
@expand
def cancel(
    run_id: RunId,
    reason: Annotated[str, typer.Option(help="Why, for the journal.")] = "",
    *,
    connection: Connection,
    json: Json = False,
) -> None:
    """End a run for good; its models stay readable."""
    with _client(connection) as client:
        output.emit(brief(client.cancel(run_id, reason)), title="run")


@federate_app.command("pause")
@expand
def pause(
    run_id: RunId,
    resume: Annotated[bool, typer.Option("--resume", help="End the pause instead.")] = False,
    *,
    connection: Connection,
    json: Json = False,
) -> None:
    """Open no further round, or go on with --resume."""
    with _client(connection) as client:
        output.emit(brief(client.resume(run_id) if resume else client.pause(run_id)), title="run")


@federate_app.command("model")
@expand
def model(
    run_id: RunId,
    out: Annotated[Path, typer.Argument(help="safetensors file to write.")],
    round_: Annotated[int, typer.Option("--round", min=0, help="After this round; 0: the newest.")] = 0,
    *,
    connection: Connection,
    json: Json = False,
) -> None:
    """Fetch the model of any round."""
    with _client(connection) as client:
        number = client.get_model(run_id, str(out), round=round_)
    output.emit({"run": run_id, "round": number, "file": str(out), "bytes": out.stat().st_size}, title="model")


@federate_app.command("silo")
@expand
def silo_command(
    data: Annotated[str, typer.Option(help="TABLE or TABLE@VERSION with this silo's patches.")],
    state: Annotated[Path, typer.Option(help="Folder for this silo's state; keep it over restarts.")],
    modality: Annotated[list[str] | None, typer.Option(help="s1 or s2 (repeat); both by default.")] = None,
    name: Annotated[str | None, typer.Option(help="Id, where the coordinator does not authenticate.")] = None,
    until_end_of: Annotated[str, typer.Option(help="Exit when this run has ended.")] = "",
    appears_within: Annotated[
        float, typer.Option(min=1.0, help="Seconds to wait for that run to be created.")
    ] = APPEARS_SECONDS,
    device: Annotated[str | None, typer.Option(help="Torch device.")] = None,
    *,
    connection: Connection,
    json: Json = False,
) -> None:
    """Take part: train beside this table whenever a run asks to."""
    from eoforge.api.federation.v1 import federation_pb2 as pb
    from eoforge.client.silo import SiloClient
    from eoforge.federated.silo.silo import Silo
    from eoforge.methods import federated_methods
    from eoforge.methods.federated_launch import strategy_of, table_snapshot, trainers
    from eoforge.storage.addresses import TableRef

    table = TableRef.parse(data)
    with SiloClient(connection.server, silo_id=name, **connection.arguments()) as client:
        silo = Silo(
            client,
            lambda task: trainers(task, table, client.silo_id, device, modality or ["s1", "s2"]),
            state,
            modalities=modality or ["s1", "s2"],
            snapshot=lambda: table_snapshot(table),
            methods=list(federated_methods()),
            strategies=strategy_of,
        )
        status = silo.run(until_end_of=until_end_of, appears_within=appears_within)
    if status is not None:
        output.emit({"run": until_end_of, "status": status_name(status)}, title="run")
        if status == pb.RUN_STATUS_FAILED:
            raise EoforgeError(f"run {until_end_of} failed")


@federate_app.command("demo")
@expand
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo-federated"),
    patches: Annotated[int, typer.Option(min=60, help="Size of each silo's synthetic archive.")] = 240,
    rounds: Annotated[int, typer.Option(min=4, help="Rounds.")] = 6,
    seed: Annotated[int, typer.Option(min=0, help="Of archives and training.")] = 0,
    json: Json = False,
) -> None:
    """Four silos and a coordinator on this machine; one silo and the coordinator are killed on the way."""
    from eoforge.cli.federate.demo import run_federated_demo

    output.emit(run_federated_demo(out, patches=patches, rounds=rounds, seed=seed), title="federated demo")


def _client(connection: Connection) -> FederationClient:
    from eoforge.client.federation import FederationClient

    return FederationClient(connection.server, **connection.arguments())


def _merge_policy(spec: pb.RunSpec, path: Path | None) -> None:
    from google.protobuf import json_format

    if path is None:
        return
    try:
        json_format.Parse(path.read_text(), spec)
    except (OSError, json_format.ParseError) as error:
        raise UsageError(f"{path} is no part of a RunSpec in JSON: {error}") from error
