"""Waiting of a service for what is not on the store yet: the index or bundle of a first installation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from eoforge.errors import EoforgeError, NotFound

_FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0

log = structlog.get_logger("server")


class Waiting:
    """Loading of what a service serves, at the start or in the background until it exists.

    A service without its data stays alive, so that an installation can precede the first index; its health says
    NOT_SERVING meanwhile.

    Args:
        load: Loads and takes up what is served.
        what: Name of it in the log, such as "index".
        where: Its address in the log.
        longest: Limit of the seconds between two attempts.
    """

    def __init__(
        self, load: Callable[[], Awaitable[None]], what: str, where: str, longest: float = LONGEST_WAIT_S
    ) -> None:
        self._load, self._what, self._where, self._longest = load, what, where, longest
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Loads, or starts to wait if there is nothing to load yet.

        Raises:
            EoforgeError: What is there cannot be served.
        """
        try:
            await self._load()
        except NotFound as error:
            self._task = asyncio.create_task(self._wait(error))

    async def stop(self) -> None:
        """Ends the waiting."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _wait(self, error: Exception) -> None:
        seconds = min(_FIRST_WAIT_S, self._longest)
        while True:
            log.warning(f"no {self._what} yet", at=self._where, reason=str(error), next_look_seconds=seconds)
            await asyncio.sleep(seconds)
            seconds = min(2 * seconds, self._longest)
            try:
                await self._load()
                return
            except EoforgeError as again:  # a store may also be unreachable for a while
                error = again
            except Exception as again:  # Lance raises errors of many types for a table that is half copied
                log.exception(f"cannot load the {self._what}", at=self._where)
                error = again
