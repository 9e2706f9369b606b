"""Process of one service: settings from the environment, logs, traces, and the event loop."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from eoforge.errors import EoforgeError
from eoforge.logs import configure_logs
from services._runtime.settings import RuntimeSettings
from services._runtime.telemetry import configure_traces

if TYPE_CHECKING:
    from services._runtime.server import Server


def main(settings_type: type[RuntimeSettings], module: str) -> None:
    """Entry point of ``python -m services.NAME``.

    Args:
        settings_type: Settings of the service, read from ``EOFORGE_*``.
        module: Module with ``run(settings)``; its imports take seconds, so wrong settings are refused before.
    """
    try:
        settings = settings_type()
        settings.require_consistent()
        import_module(module).run(settings)
    except EoforgeError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


def serve(name: str, settings: RuntimeSettings, build: Callable[[], Server]) -> None:
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
