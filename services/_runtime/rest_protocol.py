"""Limits on connections of REST: their number, and the time for the head of a request."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

SMALL_BODY = 1 << 20
LINGER_SECONDS = 1.0


def bounded_protocol(limit: int, seconds: float, answer_seconds: float) -> type[H11Protocol]:
    """Uvicorn's protocol with a bound on connections and on the time until each one's first request has arrived.

    h11 also bounds the size of a head, and stops reading a body that the application does not read. Uvicorn's own
    keep-alive time-out, which begins with the first answer, closes idle connections.

    Args:
        limit: Connections at the same time.
        seconds: Time for the head of a request.
        answer_seconds: Time for an answer, until the client has taken nearly all of it.
    """
    open_ones: set[Bounded] = set()

    class Bounded(H11Protocol):
        _timer: asyncio.TimerHandle | None = None
        _closing: asyncio.TimerHandle | None = None
        _seen_closing = False
        _answer: asyncio.TimerHandle | None = None
        _answered: Any = None

        def connection_made(self, transport: Any) -> None:
            """Takes a connection, or closes it if there are too many."""
            super().connection_made(transport)
            open_ones.add(self)
            if len(open_ones) > limit:
                transport.abort()
                return
            self._wait()
            self._check_closing()

        def data_received(self, data: bytes) -> None:
            """Takes what arrived."""
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop()
            else:
                self._wait()
            self._time_answer()

        def on_response_complete(self) -> None:
            """Goes on to the next request; the rest of a body that was refused is thrown away if it is small."""
            length = next((int(v) for n, v in self.headers if n == b"content-length"), 0)
            super().on_response_complete()
            self._time_answer()
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
            for timer in (self._closing, self._answer):
                if timer is not None:
                    timer.cancel()
            open_ones.discard(self)
            super().connection_lost(exc)

        def _time_answer(self) -> None:
            """Gives the present answer its time; a pipelined request begins with the end of the one before it."""
            if self.cycle is self._answered and not (self.cycle is not None and self.cycle.response_complete):
                return
            if self._answer is not None:
                self._answer.cancel()
                self._answer = None
            self._answered = self.cycle
            if self.cycle is not None and not self.cycle.response_complete:
                self._answer = self.loop.call_later(answer_seconds, self.transport.abort)

        def _check_closing(self) -> None:
            """Aborts a closed connection whose last answer is not read: closing alone waits for the reader for ever."""
            if self._seen_closing and self.transport.is_closing():
                self.transport.abort()
                return
            self._seen_closing = self.transport.is_closing()
            self._closing = self.loop.call_later(seconds, self._check_closing)

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
