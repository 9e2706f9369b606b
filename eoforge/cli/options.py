"""Options that several commands share; a group of options is one dataclass.

A command takes such a dataclass as a parameter. :func:`expand` replaces the parameter by the fields of the dataclass,
which typer then reads as options.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from eoforge.errors import UsageError

DEFAULT_SERVER = "127.0.0.1:8081"
Data = Annotated[str, typer.Option(help="TABLE or TABLE@VERSION.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Configuration overrides, key=value.")]
ConfigFile = Annotated[Path | None, typer.Option(help="Configuration file; overrides win over it.")]


@dataclasses.dataclass(frozen=True)
class Bind:
    """Addresses that a service binds; None leaves an address to the environment."""

    host: Annotated[str | None, typer.Option(help="Address to bind [EOFORGE_HOST].")] = None
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="gRPC port [EOFORGE_PORT].")] = None
    rest_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="REST and metrics port [EOFORGE_REST_PORT].")
    ] = None

    def settings(self, **others: Any) -> dict[str, Any]:
        """Settings of a service from these and other options, without options that are None."""
        return {k: v for k, v in (others | dataclasses.asdict(self)).items() if v is not None}


@dataclasses.dataclass(frozen=True)
class Connection:
    """Address of a coordinator, TLS files and bearer token."""

    server: Annotated[
        str,
        typer.Option(help="HOST:PORT of the coordinator; of several: HOST:PORT,HOST:PORT.", envvar="EOFORGE_SERVER"),
    ] = DEFAULT_SERVER
    ca: Annotated[Path | None, typer.Option(help="CA certificate; turns TLS on.")] = None
    cert: Annotated[Path | None, typer.Option(help="Own certificate, for mutual TLS.")] = None
    key: Annotated[Path | None, typer.Option(help="Own private key, for mutual TLS.")] = None
    token: Annotated[str | None, typer.Option(help="Bearer token.", envvar="EOFORGE_TOKEN")] = None

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of a :class:`eoforge.client.base.ServiceClient`, without the target."""
        files = {"ca_file": self.ca, "cert_file": self.cert, "key_file": self.key}
        return {**{k: str(v) for k, v in files.items() if v is not None}, "token": self.token}


def expand(command: Callable[..., None]) -> Callable[..., None]:
    """Command whose parameters of dataclass types are replaced by the fields of these dataclasses.

    Args:
        command: Function with annotated parameters; keyword-only if a required one follows an optional one.

    Returns:
        Function with the expanded signature, in the order of the parameters.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        hint = hints[parameter.name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            groups[parameter.name] = hint
            parameters += inspect.signature(hint, eval_str=True).parameters.values()
        else:
            parameters.append(parameter.replace(annotation=hint))

    @functools.wraps(command)
    def expanded(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in dataclasses.fields(group)})
        command(**given)

    keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    expanded.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]  # read by inspect.signature
    return expanded


def parse_overrides(overrides: Iterable[str] | None) -> dict[str, str]:
    """Configuration overrides from texts ``key=value``.

    Raises:
        UsageError: A text has another form.
    """
    pairs: dict[str, str] = {}
    for text in overrides or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"expected configuration overrides as key=value; got {text!r}")
        pairs[key.strip()] = value
    return pairs
