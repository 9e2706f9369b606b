"""Process of the console: one HTTP port, and a graceful end."""

from __future__ import annotations

import asyncio
import signal

import structlog

from eoforge.errors import UsageError
from services._runtime import rest
from services._runtime.files import tls_files
from services.console.app import guarded
from services.console.batches import BATCHES
from services.console.render import require_assets
from services.console.settings import ConsoleSettings
from services.process import serve

log = structlog.get_logger("server")


class ConsoleServer:
    """Console in the current event loop.

    Args:
        settings: All settings.

    Attributes:
        rest_port: HTTP port once started.

    Raises:
        UsageError: The settings contradict each other or expose the console.
    """

    def __init__(self, settings: ConsoleSettings) -> None:
        self.settings, self.rest_port = settings, 0
        self._draining = False
        self._task: asyncio.Task[None] | None = None
        self._server = rest.server(settings, guarded(settings, lambda: self._draining), tls_files(settings))

    async def start(self) -> None:
        """Opens the port; returns when pages are answered.

        Raises:
            UsageError: The port is taken.
        """
        try:
            listener = rest.listen(self.settings)
        except OSError as error:
            raise UsageError(f"cannot listen on {self.settings.host}:{self.settings.rest_port}: {error}") from error
        self.rest_port = listener.getsockname()[1]
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))
        while not self._server.started:
            await asyncio.sleep(0.01)
        log.info("serving", host=self.settings.host, rest_port=self.rest_port, tls=self.settings.tls)
        if self.settings.insecure:
            log.warning("EOFORGE_INSECURE is set: the network must restrict access and protect traffic")

    async def stop(self) -> None:
        """Graceful end: readiness fails, load balancers get time to notice, then running answers end."""
        if self._draining or self._task is None:
            return
        self._draining = True
        await asyncio.sleep(self.settings.drain_notice_seconds)
        self._server.should_exit = True
        await self._task
        BATCHES.close()
        log.info("stopped")

    async def run(self) -> None:
        """Starts, and stops on SIGTERM or SIGINT."""
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        await self.start()
        await stopping.wait()
        await self.stop()


def run(settings: ConsoleSettings) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        UsageError: The settings contradict each other or expose the console, or the port is taken.
    """
    settings.require_consistent()
    require_assets()
    serve("console", settings, lambda: ConsoleServer(settings))
