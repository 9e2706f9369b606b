"""Registry of federated strategies: classes by name, and instances from options given as text or JSON.

Neither this module nor a strategy imports torch: the coordinator runs without it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib import import_module
from typing import Any, get_type_hints

from eoforge.config import convert
from eoforge.errors import UsageError
from eoforge.federated.strategies.base import Averaging

STRATEGIES: dict[str, str] = {
    "fedavg": "eoforge.federated.strategies.fedavg:FedAvg",
    "fedprox": "eoforge.federated.strategies.fedprox:FedProx",
    "scaffold": "eoforge.federated.strategies.scaffold:Scaffold",
    "fednova": "eoforge.federated.strategies.fednova:FedNova",
    "moon": "eoforge.federated.strategies.moon:Moon",
    "feddc": "eoforge.federated.strategies.feddc:FedDC",
    "feddyn": "eoforge.federated.strategies.feddyn:FedDyn",
    "fedbn": "eoforge.federated.strategies.fedbn:FedBN",
    "pfedla": "eoforge.federated.strategies.pfedla:PFedLA",
    "mm_fl": "eoforge.federated.strategies.mm_fl:MultiModal",
}
"""Name of a strategy -> ``module:class``."""


def strategy_type(name: str) -> type[Averaging]:
    """Class of strategy ``name``.

    Raises:
        UsageError: No strategy has that name.
    """
    if name not in STRATEGIES:
        raise UsageError(f"strategy must be one of {', '.join(STRATEGIES)}; got {name!r}")
    module, _, attribute = STRATEGIES[name].partition(":")
    kind: type[Averaging] = getattr(import_module(module), attribute)
    return kind


def options_of(name: str) -> dict[str, Any]:
    """Options of strategy ``name`` with their defaults."""
    return {f.name: f.default for f in dataclasses.fields(strategy_type(name))}


def make_strategy(name: str, options: Mapping[str, Any] | None = None) -> Averaging:
    """Strategy ``name`` with the given options.

    Raises:
        UsageError: The strategy or an option is unknown, or a value has the wrong type or is out of range.
    """
    kind = strategy_type(name)
    hints = get_type_hints(kind)
    known = options_of(name)
    unknown = [key for key in options or {} if key not in known]
    if unknown:
        raise UsageError(f"{name} has the options {', '.join(known)}; got {', '.join(unknown)}")
    return kind(**{key: convert(hints[key], value, f"{name}'s {key}") for key, value in (options or {}).items()})
