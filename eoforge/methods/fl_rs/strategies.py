"""All federated strategies by name, and how options given as text or JSON become one.

Free of torch: the coordinator imports this.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib import import_module
from typing import Any, get_type_hints

from eoforge.errors import UsageError
from eoforge.methods.config import convert
from eoforge.methods.fl_rs.base import Averaging

STRATEGIES: dict[str, str] = {
    "fedavg": "eoforge.methods.fl_rs.fedavg:FedAvg",
    "fedprox": "eoforge.methods.fl_rs.fedprox:FedProx",
    "scaffold": "eoforge.methods.fl_rs.scaffold:Scaffold",
    "fednova": "eoforge.methods.fl_rs.fednova:FedNova",
    "moon": "eoforge.methods.fl_rs.moon:Moon",
    "feddc": "eoforge.methods.fl_rs.feddc:FedDC",
    "feddyn": "eoforge.methods.fl_rs.feddyn:FedDyn",
    "fedbn": "eoforge.methods.fl_rs.fedbn:FedBN",
    "pfedla": "eoforge.methods.fl_rs.pfedla:PFedLA",
    "mm_fl": "eoforge.methods.mm_fl.strategy:MultiModal",
}
"""The nine of FL-RS, and MM-FL's averaging per modality."""

ALGORITHMS: tuple[str, ...] = tuple(name for name in STRATEGIES if name != "mm_fl")


def strategy_type(name: str) -> type[Averaging]:
    """The class of ``name``.

    Raises:
        UsageError: There is no such strategy.
    """
    if name not in STRATEGIES:
        raise UsageError(f"strategy must be one of {', '.join(STRATEGIES)}; got {name!r}")
    module, _, attribute = STRATEGIES[name].partition(":")
    kind: type[Averaging] = getattr(import_module(module), attribute)
    return kind


def options_of(name: str) -> dict[str, Any]:
    """Option -> default."""
    return {f.name: f.default for f in dataclasses.fields(strategy_type(name))}


def make_strategy(name: str, options: Mapping[str, Any] | None = None) -> Averaging:
    """The strategy with ``options`` put in.

    Raises:
        UsageError: The strategy or an option is unknown, or a value is of the wrong type or out of range.
    """
    kind = strategy_type(name)
    hints = get_type_hints(kind)
    known = options_of(name)
    unknown = [key for key in options or {} if key not in known]
    if unknown:
        raise UsageError(f"{name} has the options {', '.join(known)}; got {', '.join(unknown)}")
    return kind(**{key: convert(hints[key], value, f"{name}'s {key}") for key, value in (options or {}).items()})
