"""The ten methods, by name.

``METHODS`` is the only registry: a literal dict from a method's name to the import path of its method object, or None
where the method is not built yet. Adding a method costs its folder, its test, a README row and a line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from eoforge.errors import UsageError

if TYPE_CHECKING:
    from eoforge.bundle import Bundle
    from eoforge.index.encoder import Encoder
    from eoforge.storage.addresses import TableRef

METHODS: dict[str, str | None] = {
    "reben": None,
    "csmae": "eoforge.methods.csmae.method:METHOD",
    "ss_cm_rsir": "eoforge.methods.ss_cm_rsir.method:METHOD",
    "rs_jcif": "eoforge.methods.rs_jcif.method:METHOD",
    "anneal": None,
    "dml_s2r": None,
    "rs_irl_svae": None,
    "grid": None,
    "fl_rs": "eoforge.methods.fl_rs.method:METHOD",
    "mm_fl": "eoforge.methods.mm_fl.method:METHOD",
}


def federated_methods() -> tuple[str, ...]:
    """Methods that silos can train together on the federation service."""
    return tuple(name for name in METHODS if name in ("fl_rs", "mm_fl"))


class Method(Protocol):
    """What every method offers to the command line, the pipelines and the services."""

    name: str
    config_type: type[Any]

    def config(self, preset: str, overrides: Mapping[str, str], file: str | None = None) -> Any:
        """The preset's config with values from ``file`` and then ``overrides`` put in.

        Raises:
            UsageError: The preset or a key is unknown, or a value has the wrong type or range.
        """

    def train(self, data: TableRef, out: str, config: Any, *, resume: bool = True) -> Bundle:
        """Trains and writes the bundle below ``out``, its checkpoints below ``out/checkpoints``.

        Args:
            data: Table, best with a version; without one the newest is pinned.
            out: Folder or ``s3://`` prefix of runs.
            config: From :meth:`config`.
            resume: Go on from the last checkpoint of the same run (a finished run returns its bundle);
                False starts again from nothing.
        """

    def load(self, bundle: Bundle, device: str | None = None) -> Encoder:
        """The trained model of ``bundle``, ready to encode.

        Raises:
            BundleError: The bundle is of another method, or its weights, bands or shapes do not fit.
        """

    def untrained(self, bundle: Bundle, seed: int | None = None, device: str | None = None) -> Encoder:
        """The network of ``bundle`` (bands, normalisation, bits) with initial weights: the baseline of an evaluation.

        Args:
            bundle: Names the network; its weights are not read.
            seed: Of the weights; the bundle's own seed if None.
            device: As for :meth:`load`.

        Raises:
            BundleError: As :meth:`load`.
        """


def get_method(name: str) -> Method:
    """The method object of ``name``; imports its module only now.

    Raises:
        UsageError: The name is unknown, or the method is not built yet.
    """
    built = ", ".join(sorted(n for n, path in METHODS.items() if path))
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}; the ten methods are {', '.join(METHODS)} (built so far: {built})")
    path = METHODS[name]
    if path is None:
        raise UsageError(f"method {name!r} is planned but not built yet; built so far: {built}")
    module, _, attribute = path.partition(":")
    return cast("Method", getattr(import_module(module), attribute))
