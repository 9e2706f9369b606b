"""The ten methods by name: import path, tasks, and whether silos train it.

``METHODS`` is the only registry. A new method is a folder, a test, a README row and one entry here; a method that is
planned but not built has no import path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from eoforge.errors import EoforgeError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from eoforge.bundle import Bundle
    from eoforge.index.encoder import Encoder
    from eoforge.nn.classifier import Network
    from eoforge.storage.addresses import TableRef


class Task(StrEnum):
    """A task that a bundle can do."""

    ENCODE = "encode"
    """Patches to binary codes and embeddings: indexing and retrieval."""
    CLASSIFY = "classify"
    """Patches to multi-label predictions."""
    SEGMENT = "segment"
    """Patches to a class per pixel."""
    REGRESS = "regress"
    """Patches to numbers."""
    COMPRESS = "compress"
    """Patches to streams and back."""


@dataclass(frozen=True)
class MethodEntry:
    """A registered method.

    Attributes:
        tasks: Tasks of its bundles.
        path: ``module:attribute`` of the method object; None if the method is not built yet.
        federated: Whether silos train it through the federation service.
    """

    tasks: tuple[Task, ...]
    path: str | None = None
    federated: bool = False


METHODS: dict[str, MethodEntry] = {
    "reben": MethodEntry((Task.CLASSIFY, Task.SEGMENT), "eoforge.methods.reben.method:METHOD"),
    "csmae": MethodEntry((Task.ENCODE,), "eoforge.methods.csmae.method:METHOD"),
    "ss_cm_rsir": MethodEntry((Task.ENCODE,), "eoforge.methods.ss_cm_rsir.method:METHOD"),
    "rs_jcif": MethodEntry((Task.ENCODE, Task.COMPRESS), "eoforge.methods.rs_jcif.method:METHOD"),
    "anneal": MethodEntry((Task.ENCODE,)),
    "dml_s2r": MethodEntry((Task.ENCODE,)),
    "rs_irl_svae": MethodEntry((Task.ENCODE, Task.CLASSIFY)),
    "grid": MethodEntry((Task.CLASSIFY,)),
    "fl_rs": MethodEntry((Task.ENCODE, Task.CLASSIFY), "eoforge.methods.fl_rs.method:METHOD", federated=True),
    "mm_fl": MethodEntry((Task.ENCODE, Task.CLASSIFY), "eoforge.methods.mm_fl.method:METHOD", federated=True),
}
_NEEDS: dict[Task, tuple[str, ...]] = {
    Task.ENCODE: ("load", "untrained"),
    Task.CLASSIFY: ("classifier",),
    Task.SEGMENT: ("segmenter",),
    Task.COMPRESS: ("evaluate_codec",),
}
"""What a method object must offer for a task; see :class:`Method` and the classes below it."""


class Method(Protocol):
    """Interface of a method for the command line, the pipelines and the services."""

    name: str
    config_type: type[Any]

    def config(self, preset: str, overrides: Mapping[str, str], file: str | None = None) -> Any:
        """The preset's config, changed by the values of ``file`` and then by ``overrides``.

        Raises:
            UsageError: The preset or a key is unknown, or a value has the wrong type or range.
        """

    def train(self, data: TableRef, out: str, config: Any, *, resume: bool = True) -> Bundle:
        """Training from a table to a bundle below ``out``, with checkpoints below ``out/checkpoints``.

        Args:
            data: Patches table; without a version the newest is taken and recorded.
            out: Folder or ``s3://`` prefix of runs.
            config: From :meth:`config`.
            resume: Whether to continue from the last checkpoint of the same run (a finished run returns its
                bundle); False deletes the checkpoints first.
        """

    def load(self, bundle: Bundle, device: str | None = None) -> Encoder:
        """The trained model of ``bundle``, ready to encode.

        Raises:
            BundleError: The bundle is of another method, or its weights, bands or shapes do not fit.
        """

    def untrained(self, bundle: Bundle, seed: int | None = None, device: str | None = None) -> Encoder:
        """The network of ``bundle`` (bands, normalisation, bits) with initial weights: the baseline of an evaluation.

        Args:
            bundle: Its config describes the network; its weights are not read.
            seed: Of the weights; the bundle's own seed if None.
            device: As for :meth:`load`.

        Raises:
            BundleError: As :meth:`load`.
        """


class Classifies(Protocol):
    """Interface of a method whose bundles classify (:attr:`Task.CLASSIFY`).

    Its settings have the field ``size``, the side of the network's input.
    """

    def classifier(self, bundle: Bundle, device: str | None = None) -> Network:
        """The trained classifier of ``bundle``, in evaluation mode.

        Raises:
            BundleError: As :meth:`Method.load`.
        """


class MapNetwork(Protocol):
    """Network from images of sensors to a class per pixel; ``sensors`` are read together."""

    sensors: tuple[str, ...]

    def predict(self, images: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[B, L, S, S]`` from images by sensor, ``[B, C, S, S]`` each."""


class Segments(Protocol):
    """Interface of a method whose bundles map pixels (:attr:`Task.SEGMENT`); its settings have the field ``size``."""

    def segmenter(self, bundle: Bundle, device: str | None = None) -> MapNetwork:
        """The trained network of ``bundle``, in evaluation mode.

        Raises:
            BundleError: As :meth:`Method.load`.
        """


class Compresses(Protocol):
    """Interface of a method whose bundles compress (:attr:`Task.COMPRESS`)."""

    def evaluate_codec(
        self, bundle: Bundle, data: TableRef, out: str | None, device: str | None = None
    ) -> dict[str, Any]:
        """Headline figures of the codec of ``bundle``, flat; with ``out`` also a report in files there.

        Raises:
            BundleError: As :meth:`Method.load`.
        """


def get_method(name: str) -> Method:
    """The method object of ``name``; its module is imported by this call.

    Raises:
        UsageError: The name is unknown, or the method is not built yet.
        EoforgeError: The method object lacks what its tasks need.
    """
    entry = entry_of(name)
    if entry.path is None:
        raise UsageError(f"method {name!r} is planned but not built yet; built so far: {_built()}")
    module, _, attribute = entry.path.partition(":")
    method = getattr(import_module(module), attribute)
    needed = [need for task in entry.tasks for need in _NEEDS.get(task, ())]
    if missing := [need for need in needed if not hasattr(method, need)]:
        raise EoforgeError(
            f"method {name!r} ({entry.path}) is registered for {', '.join(entry.tasks)} and so needs "
            f"{', '.join(needed)}; it lacks {', '.join(missing)}"
        )
    return cast("Method", method)


def entry_of(name: str) -> MethodEntry:
    """The entry of ``name`` in ``METHODS``.

    Raises:
        UsageError: The name is unknown.
    """
    if name not in METHODS:
        raise UsageError(
            f"unknown method {name!r}; the ten methods are {', '.join(METHODS)} (built so far: {_built()})"
        )
    return METHODS[name]


TASKS = "tasks"
"""Key of ``config.json`` with the tasks of a bundle that cannot do all tasks of its method."""


def tasks_of(bundle: Bundle) -> tuple[Task, ...]:
    """Tasks that a bundle can do.

    Raises:
        UsageError: The bundle's method is unknown.
    """
    tasks = entry_of(str(bundle.config["method"])).tasks
    own = bundle.config.get(TASKS, tasks)
    return tuple(task for task in tasks if task in own)


def require_task(bundle: Bundle, *wanted: Task) -> Task:
    """The first of ``wanted`` that a bundle can do.

    Raises:
        UsageError: The bundle can do none of them, or its method is unknown.
    """
    tasks = tasks_of(bundle)
    for task in wanted:
        if task in tasks:
            return task
    raise UsageError(
        f"{bundle.uri} is a bundle of {bundle.config['method']}, which can {' and '.join(tasks)}; this needs one that "
        f"can {' or '.join(wanted)}"
    )


def federated_methods() -> tuple[str, ...]:
    """Names of the methods that silos train through the federation service."""
    return tuple(name for name, entry in METHODS.items() if entry.federated)


def _built() -> str:
    return ", ".join(sorted(name for name, entry in METHODS.items() if entry.path))
