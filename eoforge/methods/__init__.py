"""The methods by name: import path, tasks, and whether silos train it.

``METHODS`` is the only registry. A new method is a folder, a test, a README row and one entry here; a method that is
planned but not built has no import path.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, cast

from eoforge.errors import EoforgeError, UsageError
from eoforge.methods.protocol import Classifies, Compresses, MapNetwork, Method, Regresses, Segments, Task, problems

if TYPE_CHECKING:
    from eoforge.bundle import Bundle

__all__ = [
    "METHODS",
    "TASKS",
    "Classifies",
    "Compresses",
    "MapNetwork",
    "Method",
    "MethodEntry",
    "Regresses",
    "Segments",
    "Task",
    "entry_of",
    "federated_methods",
    "get_method",
    "require_task",
    "tasks_of",
]


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


_ROBUST = (Task.ENCODE, Task.CLASSIFY, Task.SEGMENT)
METHODS: dict[str, MethodEntry] = {
    "reben": MethodEntry((Task.CLASSIFY, Task.SEGMENT), "eoforge.methods.reben.method:METHOD"),
    "csmae": MethodEntry((Task.ENCODE,), "eoforge.methods.csmae.method:METHOD"),
    "ss_cm_rsir": MethodEntry((Task.ENCODE,), "eoforge.methods.ss_cm_rsir.method:METHOD"),
    "rs_jcif": MethodEntry((Task.ENCODE, Task.COMPRESS), "eoforge.methods.rs_jcif.method:METHOD"),
    "anneal": MethodEntry((Task.ENCODE,), "eoforge.methods.anneal.method:METHOD"),
    "dml_s2r": MethodEntry((Task.REGRESS,), "eoforge.methods.dml_s2r.method:METHOD"),
    "rs_irl_svae": MethodEntry(_ROBUST, "eoforge.methods.rs_irl_svae.method:METHOD"),
    "grid": MethodEntry(_ROBUST, "eoforge.methods.grid.method:METHOD"),
    "fl_rs": MethodEntry((Task.ENCODE, Task.CLASSIFY), "eoforge.methods.fl_rs.method:METHOD", federated=True),
    "mm_fl": MethodEntry((Task.ENCODE, Task.CLASSIFY), "eoforge.methods.mm_fl.method:METHOD", federated=True),
}


def get_method(name: str) -> Method:
    """The method object of ``name``; its module is imported by this call.

    Raises:
        UsageError: The name is unknown, or the method is not built yet.
        EoforgeError: The method object does not fit the interfaces of its tasks.
    """
    entry = entry_of(name)
    if entry.path is None:
        raise UsageError(f"method {name!r} is planned but not built yet; built so far: {_built()}")
    module, _, attribute = entry.path.partition(":")
    try:
        method = getattr(import_module(module), attribute)
    except AttributeError as error:
        raise EoforgeError(f"method {name!r} is registered as {entry.path}; that module has no {attribute}") from error
    if wrong := problems(name, entry.tasks, method):
        raise EoforgeError(f"method {name!r} ({entry.path}) does not fit its entry: {'; '.join(wrong)}")
    return cast("Method", method)


def entry_of(name: str) -> MethodEntry:
    """The entry of ``name`` in ``METHODS``.

    Raises:
        UsageError: The name is unknown.
    """
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}; the methods are {', '.join(METHODS)} (built so far: {_built()})")
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
