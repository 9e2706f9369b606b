"""Limits on connections of REST: their number, and the time for the head of a request."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

SMALL_BODY = 1 << 20
LINGER_SECONDS = 1.0


def bounded_protocol(limit: int, seconds: float) -> type[H11Protocol]:
    """Uvicorn's protocol with a bound on connections and on the time until each one's first request has arrived.

    h11 also bounds the size of a head, and stops reading a body that the application does not read. Uvicorn's own
    keep-alive time-out, which begins with the first answer, closes idle connections.

    Args:
        limit: Connections at the same time.
        seconds: Time for the head of a request.
    """
    open_ones: set[Bounded] = set()

    class Bounded(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            """Takes a connection, or closes it if there are too many."""
            super().connection_made(transport)
            open_ones.add(self)
            if len(open_ones) > limit:
                transport.abort()
                return
            self._wait()

        def data_received(self, data: bytes) -> None:
            """Takes what arrived."""
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop()
            else:
                self._wait()

        def on_response_complete(self) -> None:
            """Goes on to the next request; the rest of a body that was refused is thrown away if it is small."""
            length = next((int(v) for n, v in self.headers if n == b"content-length"), 0)
            super().on_response_complete()
            if self.conn.their_state is not h11.SEND_BODY or self.transport.is_closing():
                return
            if length <= SMALL_BODY:
                self._wait()
            else:  # time for the sender to read the answer
                self.transport.pause_reading()
                self.loop.call_later(LINGER_SECONDS, self.transport.abort)

        def connection_lost(self, exc: Exception | None) -> None:
            """Ends."""
            self._stop()
            open_ones.discard(self)
            super().connection_lost(exc)

        def _wait(self) -> None:
            if self._timer is None and not self.transport.is_closing():
                self._timer = self.loop.call_later(seconds, self._late)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _late(self) -> None:
            if not self.transport.is_closing():
                self.transport.abort()

    return Bounded
