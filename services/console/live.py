"""Server-sent events: a bounded number of open streams per caller, and the form of a message."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from services._runtime.errors import QuotaExceeded

MAX_PER_CALLER, MAX_STREAMS = 4, 64
RETRY_MILLISECONDS = 2000
"""Time after which a browser opens a stream again that has ended."""
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}  # proxies must not collect a stream


class Streams:
    """Count of open streams, by caller; thread-safe."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()

    def place(self, who: str) -> ExitStack:
        """Place of one stream, taken now and free again when it is closed.

        Raises:
            QuotaExceeded: The caller, or all callers together, have too many streams open.
        """
        place = ExitStack()
        with self._lock:
            if self._open[who] >= MAX_PER_CALLER or self._open.total() >= MAX_STREAMS:
                raise QuotaExceeded(
                    f"at most {MAX_PER_CALLER} live pages may be open at the same time; close one of them", 10.0
                )
            self._open[who] += 1
        place.callback(self._leave, who)
        return place

    def _leave(self, who: str) -> None:
        with self._lock:
            self._open[who] -= 1
            self._open += Counter()  # drops callers without a stream

    @property
    def open(self) -> int:
        """Number of open streams."""
        return self._open.total()


STREAMS = Streams()


class LiveAnswer(StreamingResponse):
    """Answer that streams events and gives its place back, also if the browser left before the first one.

    Args:
        body: Messages.
        place: Place of the stream.
    """

    def __init__(self, body: AsyncIterator[str], place: ExitStack) -> None:
        super().__init__(body, media_type="text/event-stream", headers=_HEADERS)
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Streams until the body or the browser ends it."""
        with self._place:
            await super().__call__(scope, receive, send)


def message(kind: str, **content: Any) -> str:
    """Message of a stream: a kind, and content as JSON on one line."""
    return f"event: {kind}\ndata: {json.dumps(content)}\n\n"
