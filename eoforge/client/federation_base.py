"""What the clients of operators and silos share: finding the coordinator that acts, and steps repeated until done."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import grpc
import stamina

from eoforge.client.base import RemoteError, ServiceClient, error_details, waits

TRANSFER_TIMEOUT_S = 3600.0
_WAITS: dict[str, Any] = {"wait_initial": 0.1, "wait_max": 5.0}
_CUT = frozenset({grpc.StatusCode.CANCELLED, grpc.StatusCode.ABORTED})


class FederationServiceClient(ServiceClient, ABC):
    """What both clients share: streams, steps that are repeated until they are done, and finding who acts."""

    stub: Any
    channel_options: ClassVar[tuple[tuple[str, int], ...]] = (
        # A stream of tasks is silent for hours: pings keep load balancers from cutting it and notice a dead peer.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),  # no bound: gRPC would stop after two
        # A coordinator that restarts is back in seconds: gRPC would wait up to two minutes between attempts.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    )

    def __init__(self, target: str, **options: Any) -> None:
        """See :class:`ServiceClient`; ``target`` may name several coordinators, ``HOST:PORT,HOST:PORT``."""
        self._targets = [part.strip() for part in target.split(",") if part.strip()] or [target]
        self._moving, self._closed = threading.Lock(), False
        super().__init__(self._targets[0], **options)
        self.stub = self._stub_on(self._channel)

    def move_on(self, channel: grpc.Channel) -> None:
        """Connects anew, to the next coordinator if several are known; no-op unless ``channel`` is still in use.

        A new connection matters for a single name too: behind it may be another coordinator by now.
        """
        with self._moving:
            if channel is not self._channel or self._closed:
                return
            self._targets.append(self._targets.pop(0))
            self._target = self._targets[0]
            self._channel = self._open(self._target)
            self.stub = self._stub_on(self._channel)
        channel.close()

    @abstractmethod
    def _stub_on(self, channel: grpc.Channel) -> Any:
        """The client's service on a connection."""

    def _stream(self, method: Callable[..., Any], request: Any, timeout: float | None = None) -> Any:
        try:
            return method(request, timeout=timeout, metadata=self._metadata)
        except ValueError as error:  # what gRPC raises for a closed channel
            code = "CANCELLED" if not self._closed else "CLOSED"  # another thread has moved on, or all is over
            raise RemoteError(f"the connection was closed: {error}", code) from error

    def close(self) -> None:
        """Ends the connection for good."""
        self._closed = True
        super().close()

    def _ask(self, name: str, request: Any) -> Any:
        """One unary call by name, repeated while the server is unavailable or another coordinator acts."""
        return self._again(lambda: self._stream(getattr(self.stub, name), request, self._timeout))

    def _again(self, step: Callable[[], Any]) -> Any:
        """Repeats a resumable step while the server is unavailable or overloaded, elsewhere if another one acts."""
        used: list[grpc.Channel] = []

        def worth_repeating(error: Exception) -> bool | float:
            if leads_elsewhere(error) or (len(self._targets) > 1 and unavailable(error)):
                self.move_on(used[-1])
                return True
            return transient(error)

        try:
            for attempt in stamina.retry_context(on=worth_repeating, attempts=self._attempts, timeout=None, **_WAITS):
                with attempt:
                    used.append(self._channel)
                    return step()
        except grpc.RpcError as error:
            raise self._translate(error) from error


def transient(error: Exception) -> bool | float:
    """Besides what every client repeats: a transfer that a restart or a cut ended, which goes on where it was."""
    if isinstance(error, RemoteError):
        return error.retry_after is not None or error.code in ("UNAVAILABLE", *(code.name for code in _CUT))
    if isinstance(error, grpc.RpcError) and error.code() in _CUT:
        return True
    return waits(error)


def leads_elsewhere(error: Exception) -> bool:
    """Whether a coordinator says that another one acts."""
    return isinstance(error, grpc.RpcError) and error_details(error)[0] == "NOT_LEADER"


def unavailable(error: Exception) -> bool:
    """Whether nobody answers there."""
    return isinstance(error, grpc.RpcError) and error.code() is grpc.StatusCode.UNAVAILABLE
