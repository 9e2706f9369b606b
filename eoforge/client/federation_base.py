"""Base of the clients of a coordinator: failover to the active coordinator, and retries of resumable steps."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import grpc
import stamina

from eoforge.client.base import RemoteError, ServiceClient, error_details, retry_wait

TRANSFER_TIMEOUT_S = 3600.0
_WAITS: dict[str, Any] = {"wait_initial": 0.1, "wait_max": 5.0}
_CUT = frozenset({grpc.StatusCode.CANCELLED, grpc.StatusCode.ABORTED})


class FederationServiceClient(ServiceClient, ABC):
    """Base of :class:`FederationClient` and :class:`SiloClient`."""

    stub: Any
    channel_options: ClassVar[tuple[tuple[str, int], ...]] = (
        # A stream of tasks may be idle for hours: pings keep load balancers from closing it and detect a dead peer.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),  # unlimited; the default is two
    )

    def __init__(self, target: str, **options: Any) -> None:
        """See :class:`ServiceClient`; ``target`` may name several coordinators, ``HOST:PORT,HOST:PORT``."""
        self._targets = [part.strip() for part in target.split(",") if part.strip()] or [target]
        self._moving, self._closed = threading.Lock(), False
        super().__init__(self._targets[0], **options)
        self.stub = self._stub_on(self._channel)

    def move_on(self, channel: grpc.Channel) -> None:
        """Reconnects, to the next coordinator if several are known; no-op unless ``channel`` is still in use.

        A single name needs a new connection too, because it may have moved to another coordinator.
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
        """Stub of the client's service on a channel."""

    def _stream(self, method: Callable[..., Any], request: Any, timeout: float | None = None) -> Any:
        try:
            return method(request, timeout=timeout, metadata=self._metadata)
        except ValueError as error:  # raised by gRPC for a closed channel
            code = "CANCELLED" if not self._closed else "CLOSED"  # another thread reconnected, or the client was closed
            raise RemoteError(f"the connection was closed: {error}", code) from error

    def close(self) -> None:
        """Closes the client."""
        self._closed = True
        super().close()

    def _ask(self, name: str, request: Any) -> Any:
        """Unary call by name, with the retries of :meth:`_again`."""
        return self._again(lambda: self._stream(getattr(self.stub, name), request, self._timeout))

    def _again(self, step: Callable[[], Any]) -> Any:
        """Result of a step, retried while the server is unavailable, overloaded or not the active coordinator."""
        used: list[grpc.Channel] = []

        def retry(error: Exception) -> bool | float:
            if leads_elsewhere(error) or (len(self._targets) > 1 and unavailable(error)):
                self.move_on(used[-1])
                return True
            return transient(error)

        try:
            for attempt in stamina.retry_context(on=retry, attempts=self._attempts, timeout=None, **_WAITS):
                with attempt:
                    used.append(self._channel)
                    return step()
        except grpc.RpcError as error:
            raise self.translate(error) from error


def transient(error: Exception) -> bool | float:
    """Whether to retry a resumable step, or the seconds to wait; adds interrupted transfers to :func:`retry_wait`."""
    if isinstance(error, RemoteError):
        return error.retry_after is not None or error.code in ("UNAVAILABLE", *(code.name for code in _CUT))
    if isinstance(error, grpc.RpcError) and error.code() in _CUT:
        return True
    return retry_wait(error)


def leads_elsewhere(error: Exception) -> bool:
    """Whether the answer is that another coordinator is active."""
    return isinstance(error, grpc.RpcError) and error_details(error)[0] == "NOT_LEADER"


def unavailable(error: Exception) -> bool:
    """Whether the server cannot be reached."""
    return isinstance(error, grpc.RpcError) and error.code() is grpc.StatusCode.UNAVAILABLE
