"""Process of one service: settings from the environment, logs, traces, and the event loop."""

from __future__ import annotations

import asyncio
import difflib
import logging
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Protocol

from eoforge.errors import EoforgeError, UsageError
from eoforge.logs import configure_logs
from services._runtime.settings import HttpSettings
from services._runtime.telemetry import configure_traces

OTHER_VARIABLES = frozenset(
    {
        "EOFORGE_CACHE_FOLDER",
        "EOFORGE_SCRATCH",
        "EOFORGE_SHARED_SCRATCH",
        "EOFORGE_TRAINING_RUNTIME_KIND",
        "EOFORGE_TOKEN",
        "EOFORGE_SERVER",
    }
    | {
        "EOFORGE_FEDERATION_CREDENTIALS",
        "EOFORGE_SHARED_DATA",
        "EOFORGE_CLUSTER_LOGS",
        "EOFORGE_PIPELINES_IMAGE",
        "EOFORGE_NAMESPACE",
    }
    | {"EOFORGE_BENCH_FOLDER", "EOFORGE_BENCH_ISOLATED", "EOFORGE_PEER_PYTHON"}
)
"""Variables of eoforge that are no settings of a service: of archives, pipelines, command line, tests, benchmarks."""


def main(settings_type: type[HttpSettings], module: str) -> None:
    """Entry point of ``python -m services.NAME``.

    Args:
        settings_type: Settings of the service, read from ``EOFORGE_*``.
        module: Module with ``run(settings)``; its imports take seconds, so wrong settings are refused before.
    """
    try:
        require_known_variables(settings_type, os.environ)
        settings = settings_type()
        settings.require_consistent()
        import_module(module).run(settings)
    except EoforgeError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


def require_known_variables(settings_type: type[HttpSettings], environment: Mapping[str, str]) -> None:
    """Refuses ``EOFORGE_*`` variables that no setting has: a misspelt limit would silently not hold.

    Variables that Kubernetes makes of a Service whose name begins with ``eoforge`` are let pass.

    Args:
        settings_type: Settings of the service.
        environment: All variables.

    Raises:
        UsageError: There are some; the message names all of them, each with the nearest name that there is.
    """
    prefix = str(settings_type.model_config["env_prefix"])
    known = {f"{prefix}{name.upper()}" for name in settings_type.model_fields}
    services = [name.removesuffix("_SERVICE_HOST") for name in environment if name.endswith("_SERVICE_HOST")]
    links = tuple(f"{service}_{end}" for service in services for end in ("SERVICE_", "PORT"))
    unknown = []
    for name in sorted(environment):
        if not name.upper().startswith(prefix) or name.upper() in known | OTHER_VARIABLES or name.startswith(links):
            continue
        near = difflib.get_close_matches(name.upper(), sorted(known), n=1, cutoff=0.75)
        unknown.append(f"{name} (did you mean {near[0]}?)" if near else name)
    if unknown:
        raise UsageError(f"settings refused: this service has no setting {', '.join(unknown)}; its README lists all")


class Serving(Protocol):
    """What a process serves until it is told to end."""

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT."""


def serve(name: str, settings: HttpSettings, build: Callable[[], Serving]) -> None:
    """Serving until SIGTERM or SIGINT.

    Args:
        name: Name of the service in traces.
        settings: All settings.
        build: Server of the service; called in the event loop.

    Raises:
        UsageError: The settings contradict each other or expose the service, or a port is taken.
    """
    configure_logs(as_json=True, level=getattr(logging, settings.log_level.upper()))
    configure_traces(settings, name)

    async def run() -> None:
        await build().run()

    asyncio.run(run())
