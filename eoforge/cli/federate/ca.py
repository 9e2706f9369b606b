"""``eoforge federate ca``: certificates for silos, operators and the coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eoforge.cli import output
from eoforge.cli.output import Json
from eoforge.errors import UsageError

ca_app = typer.Typer(help="A small certificate authority for a federation.", no_args_is_help=True)

Folder = Annotated[Path, typer.Option("--ca", help="Folder of the authority.")]
DEFAULT_FOLDER = Path("federation-ca")


@ca_app.command("init")
def init(folder: Folder = DEFAULT_FOLDER, json: Json = False) -> None:
    """Make an authority. Keep its ca.key secret: its holder can pose as any silo or operator."""
    from eoforge.federated.ca import Authority

    authority = Authority.create(folder)
    output.emit(
        {
            "certificate": authority.folder / "ca.pem",
            "key": authority.folder / "ca.key",
            "revocations": authority.folder / "crl.pem",
        },
        title="authority",
    )


@ca_app.command("issue")
def issue(
    name: Annotated[str, typer.Argument(help="Id of the silo, name of the operator or of the server.")],
    out: Annotated[Path, typer.Option(help="Folder to write certificate and key to.")],
    role: Annotated[str, typer.Option(help="silo, operator or server.")] = "silo",
    host: Annotated[list[str] | None, typer.Option(help="Host name or address of a server (repeat).")] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long it is valid.")] = 90,
    folder: Folder = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Issue a certificate, or a new one to rotate to; a run need not stop for it."""
    from eoforge.federated.ca import Authority

    if role not in ("silo", "operator", "server"):
        raise UsageError(f"--role must be silo, operator or server; got {role!r}")
    issued = Authority(folder).issue(role, name, out, hosts=host or (), days=days)  # type: ignore[arg-type]  # checked
    output.emit(issued, title="certificate")


@ca_app.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="Whose certificates.")],
    serial: Annotated[str | None, typer.Option(help="Only the one with this serial number.")] = None,
    folder: Folder = DEFAULT_FOLDER,
    json: Json = False,
) -> None:
    """Revoke certificates; give crl.pem to the coordinator, which reads it again when it changes."""
    from eoforge.federated.ca import Authority

    serials = Authority(folder).revoke(name, serial)
    output.emit({"revoked": ", ".join(serials), "revocations": folder / "crl.pem"}, title="revoked")
