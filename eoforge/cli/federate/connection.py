"""Connection options of the federation commands: server address, TLS files and token."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from eoforge.client.federation import FederationClient


@dataclass(frozen=True)
class Connection:
    """Address and credentials of the caller; every field is an option of the command line."""

    server: Annotated[
        str,
        typer.Option(help="HOST:PORT of the coordinator; of several: HOST:PORT,HOST:PORT.", envvar="EOFORGE_SERVER"),
    ] = "127.0.0.1:8081"
    ca: Annotated[Path | None, typer.Option(help="CA certificate; turns TLS on.")] = None
    cert: Annotated[Path | None, typer.Option(help="Own certificate, for mutual TLS.")] = None
    key: Annotated[Path | None, typer.Option(help="Own private key, for mutual TLS.")] = None
    token: Annotated[str | None, typer.Option(help="Bearer token.", envvar="EOFORGE_TOKEN")] = None

    def credentials(self) -> dict[str, Any]:
        """Keyword arguments of a client, besides the address."""
        paths = {"ca_file": self.ca, "cert_file": self.cert, "key_file": self.key}
        return {**{k: str(v) for k, v in paths.items() if v is not None}, "token": self.token}

    def operator(self) -> FederationClient:
        """Client for operators."""
        from eoforge.client.federation import FederationClient

        return FederationClient(self.server, **self.credentials())


def with_connection(command: Callable[..., None]) -> Callable[..., None]:
    """Command whose parameter ``connection`` is replaced by the options of :class:`Connection`."""
    options = inspect.signature(Connection, eval_str=True).parameters
    parameters = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        replaced = options.values() if parameter.name == "connection" else [parameter]
        parameters += [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in replaced]

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        connection = Connection(**{name: given.pop(name) for name in options})
        command(**given, connection=connection)

    del wrapped.__wrapped__  # typer must see the options, not the parameter
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped
