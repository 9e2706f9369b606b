"""Base of all service clients: connection, credentials, deadlines, retries, errors."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import grpc
import stamina
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from eoforge.errors import EoforgeError, NotFound, UsageError

MAX_MESSAGE_BYTES = 64 << 20
DETAILS_KEY = "grpc-status-details-bin"
_FIRST_WAIT_S = 0.2
_LIST = re.compile(r"^ipv[46]:")


class RemoteError(EoforgeError):
    """Error answer of a service, or failure to reach it.

    Attributes:
        code: Name of the gRPC status, such as ``RESOURCE_EXHAUSTED``.
        remote_reason: The service's reason, such as ``QUOTA_EXCEEDED``; empty if the error came from the network.
        retry_after: Seconds after which the service asks to try again, or None.
    """

    def __init__(self, message: str, code: str, remote_reason: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.remote_reason = remote_reason
        self.retry_after = retry_after


class RemoteRefused(RemoteError, UsageError):
    """Refusal of a request that is malformed or too large."""


class RemoteNotFound(RemoteError, NotFound):
    """Answer that a named object, such as a patch or a run, does not exist on the service."""


_ERROR_TYPES: dict[str, type[RemoteError]] = {
    "INVALID_ARGUMENT": RemoteRefused,
    "OUT_OF_RANGE": RemoteRefused,
    "NOT_FOUND": RemoteNotFound,
}


class ServiceClient:
    """Base of the synchronous, thread-safe clients.

    Args:
        target: Address of the service, ``HOST:PORT``, or several as ``ipv4:ADDRESS:PORT,ADDRESS:PORT``.
        token: Bearer token (JWT); sent over TLS or to the loopback address only.
        ca_file: CA certificate (PEM) of the server; enables TLS.
        cert_file: Client certificate (PEM) for mutual TLS, together with ``key_file``.
        key_file: Private key (PEM) of the client.
        tls: Whether to use TLS; None for TLS except to the loopback address. ``False`` is for encrypted networks.
        encrypted_network: Whether the network encrypts, so that the token may go without TLS.
        timeout: Deadline of one attempt in seconds.
        attempts: Number of attempts of a call while the server is unavailable, overloaded or restarting.
    """

    channel_options: ClassVar[tuple[tuple[str, int], ...]] = ()

    def __init__(
        self,
        target: str,
        *,
        token: str | None = None,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
        tls: bool | None = None,
        encrypted_network: bool = False,
        timeout: float = 30.0,
        attempts: int = 5,
    ) -> None:
        if (cert_file is None) != (key_file is None):
            raise UsageError("mutual TLS needs both cert_file and key_file; got one of them")
        self._files, self._tls, self._encrypted = (ca_file, key_file, cert_file), tls, encrypted_network
        self._target, self._timeout, self._attempts = target, timeout, attempts
        self._closed = False
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._channel = self._open(target)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata of every call: the token, if there is one."""
        return self._metadata

    def open_async(self) -> grpc.aio.Channel:
        """A further channel of asyncio to the same service, with the same credentials; its user closes it."""
        return self._open(self._target, grpc.aio)

    def _open(self, target: str, kind: Any = grpc) -> Any:
        """Channel to ``target`` with the credentials of this client, of ``grpc`` or ``grpc.aio``.

        Raises:
            UsageError: The address is empty, a file cannot be read, or a token would be sent without encryption.
        """
        if not target:
            raise UsageError("expected the address of a service, HOST:PORT; got an empty address")
        ca_file, key_file, cert_file = self._files
        tls = bool(ca_file or cert_file) or not is_loopback(target) if self._tls is None else self._tls
        if self._metadata and not (tls or self._encrypted or is_loopback(target)):
            raise UsageError(f"a token for {target} would be sent in the clear: use TLS (ca_file=..., or tls=True)")
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            # A service restarts within seconds; the default backoff of gRPC goes up to two minutes.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2_000),
            *self.channel_options,
        ]
        if tls:
            credentials = grpc.ssl_channel_credentials(_pem(ca_file), _pem(key_file), _pem(cert_file))
            return kind.secure_channel(target, credentials, options)
        return kind.insecure_channel(target, options)

    def close(self) -> None:
        """Closes the connection."""
        self._closed = True
        self._channel.close()

    def wait_connected(self, seconds: float) -> bool:
        """Whether the connection to the server is established within ``seconds``."""
        try:
            grpc.channel_ready_future(self._channel).result(timeout=seconds)
        except grpc.FutureTimeoutError:
            return False
        return True

    def _call(self, method: Callable[..., Any], request: Any) -> Any:
        try:
            for attempt in stamina.retry_context(on=self._retry, attempts=self._attempts, wait_initial=_FIRST_WAIT_S):
                with attempt:
                    return method(request, timeout=self._timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self.translate(error) from error

    def _retry(self, error: Exception) -> bool | float:
        """See :func:`retry_wait`; adds calls that a stopping server had received but not started, which it cancels."""
        if self._closed:
            return False
        cut = isinstance(error, grpc.RpcError) and error.code() is grpc.StatusCode.CANCELLED
        return cut or retry_wait(error)

    def _answers(self, method: Callable[..., Any], requests: Any, timeout: float | None) -> Iterator[tuple[str, Any]]:
        """Correlation id and result, or :class:`RemoteError`, of each answer of a stream."""
        try:
            for answer in method(requests, timeout=timeout, metadata=self._metadata):
                failed = answer.WhichOneof("outcome") == "error"
                yield answer.correlation_id, stream_error(answer.error) if failed else answer.result
        except grpc.RpcError as error:
            raise self.translate(error) from error

    def translate(self, error: grpc.RpcError) -> RemoteError:
        """Error for callers of an error of gRPC."""
        reason, retry_after = error_details(error)
        code = error.code().name
        text = error.details() or "no details"
        message = text if reason else f"{self._target} answered {code}: {text}. Is an eoforge service running there?"
        return _remote(message, code, reason, retry_after)


def is_loopback(target: str) -> bool:
    """Whether ``HOST:PORT``, ``unix:PATH`` or each of ``ipv4:ADDRESS:PORT,ADDRESS:PORT`` is of this machine."""
    if target.startswith("unix:"):
        return True
    hosts = [part.rsplit(":", 1)[0].strip("[]") for part in _LIST.sub("", target).split(",")]
    try:
        return all(host == "localhost" or ipaddress.ip_address(host).is_loopback for host in hosts)
    except ValueError:
        return False


def retry_wait(error: Exception) -> bool | float:
    """Whether to retry, or the seconds to wait before a retry.

    ``RESOURCE_EXHAUSTED`` is retried only with a ``RetryInfo``: a message above the size limit would fail again.
    """
    if not isinstance(error, grpc.RpcError):
        return False
    retry_after = error_details(error)[1]
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return False if retry_after is None else retry_after
    return error.code() is grpc.StatusCode.UNAVAILABLE


def error_details(error: grpc.RpcError) -> tuple[str, float | None]:
    """Reason and seconds until a retry, from the rich status in the trailers; malformed details count as none."""
    reason, retry_after = "", None
    trailers: Any = error.trailing_metadata()  # the stubs type its items as opaque; they are pairs
    for key, value in trailers or ():
        if key == DETAILS_KEY:
            with suppress(DecodeError, OverflowError, ValueError):
                for detail in status_pb2.Status.FromString(value).details:
                    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
                    if detail.Unpack(info):
                        reason = info.reason
                    elif detail.Unpack(retry):
                        retry_after = _seconds(retry.retry_delay)
    return reason, retry_after


def stream_error(error: Any) -> RemoteError:
    """Error of one answer of a stream, from its ``Error`` message (one type per API, with equal fields)."""
    code = next((c for c in grpc.StatusCode if c.value[0] == error.code), grpc.StatusCode.UNKNOWN)
    retry_after = None
    with suppress(OverflowError, ValueError):
        retry_after = _seconds(error.retry_delay) if error.HasField("retry_delay") else None
    return _remote(error.message, code.name, error.reason, retry_after)


def _remote(message: str, code: str, reason: str, retry_after: float | None) -> RemoteError:
    return _ERROR_TYPES.get(code, RemoteError)(message, code, reason, retry_after)


def _seconds(delay: Any) -> float:
    """Seconds of a Duration, at least 0.

    Raises:
        OverflowError: It is out of range.
        ValueError: It is malformed.
    """
    return max(0.0, float(delay.ToTimedelta().total_seconds()))


def _pem(path: str | None) -> bytes | None:
    try:
        return None if path is None else Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"expected a PEM file at {path}; it cannot be read: {error.strerror}") from error
