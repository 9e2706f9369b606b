"""Client of the retrieval service, in three lines::

    from eoforge.client import RetrievalClient
    with RetrievalClient("127.0.0.1:8081") as client:
        hits = client.search(patch_id="S2A_MSIL2A_...", source="s1", target="s2", k=10)

It needs gRPC and the generated messages only: no torch, no Lance. Calls have deadlines, are retried where that is safe
and helps, and return plain dataclasses.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
import stamina
from google.rpc import error_details_pb2, status_pb2

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.api.retrieval.v1 import retrieval_pb2_grpc
from eoforge.client_messages import (
    Bands,
    Encoded,
    Hit,
    IndexInfo,
    Patch,
    PatchInfo,
    SearchFilter,
    band_image,
    geotiff_image,
    hit,
    index_info,
    patch,
    search_request,
)
from eoforge.errors import EoforgeError, NotFound, UsageError

__all__ = [
    "Encoded",
    "Hit",
    "IndexInfo",
    "Patch",
    "PatchInfo",
    "RemoteError",
    "RemoteNotFound",
    "RemoteRefused",
    "RetrievalClient",
    "SearchFilter",
]

MAX_MESSAGE_BYTES = 64 << 20
MAX_PAGE = 1000
"""Hits that the client asks for at once; servers allow at least this by default."""
DETAILS_KEY = "grpc-status-details-bin"
_FIRST_WAIT_S = 0.2


class RemoteError(EoforgeError):
    """The service answered with an error.

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
    """The service found the request malformed or too large."""


class RemoteNotFound(RemoteError, NotFound):
    """The patch or index that was named does not exist there."""


_ERROR_TYPES: dict[str, type[RemoteError]] = {
    "INVALID_ARGUMENT": RemoteRefused,
    "OUT_OF_RANGE": RemoteRefused,
    "NOT_FOUND": RemoteNotFound,
}


class RetrievalClient:
    """Synchronous client; safe to share between threads.

    Args:
        target: ``HOST:PORT``.
        token: Bearer token (JWT). Sent over TLS or to the loopback address only.
        ca_file: CA certificate (PEM) of the server; turns TLS on.
        cert_file: Own certificate (PEM) for mutual TLS, together with ``key_file``.
        key_file: Own private key (PEM).
        tls: None means TLS unless the host is the loopback address. ``False`` is for networks that encrypt themselves.
        timeout: Deadline of one attempt, seconds.
        attempts: How often a call is tried in all while the server is unavailable or overloaded.
    """

    def __init__(
        self,
        target: str,
        *,
        token: str | None = None,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
        tls: bool | None = None,
        timeout: float = 30.0,
        attempts: int = 5,
    ) -> None:
        if (cert_file is None) != (key_file is None):
            raise UsageError("mutual TLS needs both cert_file and key_file; got one of them")
        if tls is None:
            tls = bool(ca_file or cert_file) or not is_loopback(target)
        if token and not tls and not is_loopback(target):
            raise UsageError(f"a token for {target} would travel in the clear: use TLS (ca_file=..., or tls=True)")
        self._target, self._timeout, self._attempts = target, timeout, attempts
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ]
        if tls:
            credentials = grpc.ssl_channel_credentials(_pem(ca_file), _pem(key_file), _pem(cert_file))
            self._channel = grpc.secure_channel(target, credentials, options)
        else:
            self._channel = grpc.insecure_channel(target, options)
        self._stub: Any = retrieval_pb2_grpc.RetrievalServiceStub(self._channel)  # type: ignore[no-untyped-call]  # generated

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def wait_connected(self, seconds: float) -> bool:
        """Waits until the server listens; False if it did not within ``seconds``."""
        try:
            grpc.channel_ready_future(self._channel).result(timeout=seconds)
        except grpc.FutureTimeoutError:
            return False
        return True

    def search(
        self,
        *,
        patch_id: str | None = None,
        bands: Bands | None = None,
        geotiff: bytes | Sequence[bytes] | None = None,
        code: bytes | None = None,
        source: str | None = None,
        target: str,
        k: int = 10,
        filter: SearchFilter | None = None,
        thumbnails: bool = False,
    ) -> list[Hit]:
        """The ``k`` nearest patches to exactly one of ``patch_id``, ``bands``, ``geotiff`` and ``code``.

        Args:
            patch_id: A patch of the archive.
            bands: An image as arrays by band name.
            geotiff: An image as the bytes of one GeoTIFF or of several; their band descriptions name the bands.
            code: A packed code.
            source: Sensor of the query, ``s1`` or ``s2``; not needed with ``code``.
            target: Sensor of the hits.
            k: Number of hits; they come in as many pages as it takes.
            filter: Restricts the hits.
            thumbnails: Adds a picture of each hit.

        Raises:
            UsageError: The arguments contradict each other, or the server refuses them.
            RemoteError: The server answered with another error, or could not be reached.
        """
        image = None if geotiff is None else geotiff_image(geotiff, source)
        given = [q for q in (patch_id, bands, image, code) if q is not None]
        if len(given) != 1:
            raise UsageError(f"give exactly one of patch_id, bands, geotiff and code; got {len(given)}")
        request = search_request(given[0], source, target, filter)
        request.include_thumbnails = thumbnails
        hits: list[Hit] = []
        while True:
            request.page_size = min(k - len(hits), MAX_PAGE)
            response = self._call(self._stub.Search, request)
            hits.extend(hit(h) for h in response.hits)
            request.page_token = response.next_page_token
            if len(hits) >= k or not request.page_token:
                return hits

    def search_many(
        self,
        patch_ids: Iterable[str],
        *,
        source: str,
        target: str,
        k: int = 10,
        filter: SearchFilter | None = None,
        timeout: float | None = None,
    ) -> Iterator[tuple[str, list[Hit] | RemoteError]]:
        """Searches for many patches over one stream; yields ``(patch_id, hits or the error of that one)`` in order.

        ``timeout`` is the deadline of the whole stream in seconds; None lets it run as long as there are ids.

        Raises:
            RemoteError: The stream as a whole broke. It is not retried: what was yielded is done.
        """

        def requests() -> Iterator[pb.SearchStreamRequest]:
            for patch_id in patch_ids:
                search = search_request(patch_id, source, target, filter)
                search.page_size = k
                yield pb.SearchStreamRequest(correlation_id=patch_id, search=search)

        try:
            for answer in self._stub.SearchStream(requests(), timeout=timeout, metadata=self._metadata):
                if answer.WhichOneof("outcome") == "error":
                    code = next(c for c in grpc.StatusCode if c.value[0] == answer.error.code)
                    yield answer.correlation_id, _remote(answer.error.message, code.name, answer.error.reason, None)
                else:
                    yield answer.correlation_id, [hit(h) for h in answer.result.hits]
        except grpc.RpcError as error:
            raise self._translate(error) from error

    def encode(self, images: Sequence[Bands], modality: str) -> list[Encoded]:
        """Codes and embeddings of images given by their bands, in order."""
        request = pb.EncodeRequest(images=[pb.Image(bands=band_image(i, modality)) for i in images])
        response = self._call(self._stub.Encode, request)
        return [Encoded(e.code, np.array(e.embedding, dtype=np.float32)) for e in response.encodings]

    def get_patch(
        self, patch_id: str, *, thumbnails: bool = False, pixels: bool = False, reference_map: bool = False
    ) -> Patch:
        """One patch, with pictures, pixels on native grids and the land-cover map on request."""
        request = pb.GetPatchRequest(
            patch_id=patch_id,
            include_thumbnails=thumbnails,
            include_pixels=pixels,
            include_reference_map=reference_map,
        )
        return patch(self._call(self._stub.GetPatch, request))

    def indexes(self) -> list[IndexInfo]:
        """What the server searches."""
        response = self._call(self._stub.ListIndexes, pb.ListIndexesRequest())
        return [index_info(i) for i in response.indexes]

    def _call(self, method: Callable[..., Any], request: Any) -> Any:
        try:
            for attempt in stamina.retry_context(on=_wait, attempts=self._attempts, wait_initial=_FIRST_WAIT_S):
                with attempt:
                    return method(request, timeout=self._timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._translate(error) from error

    def _translate(self, error: grpc.RpcError) -> RemoteError:
        reason, retry_after = _details(error)
        code = error.code().name
        text = error.details() or "no details"
        message = text if reason else f"{self._target} answered {code}: {text}. Is an eoforge service running there?"
        return _remote(message, code, reason, retry_after)


def is_loopback(target: str) -> bool:
    """Whether ``HOST:PORT`` (or ``unix:PATH``) stays on this machine."""
    if target.startswith("unix:"):
        return True
    host = target.rsplit(":", 1)[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _wait(error: Exception) -> bool | float:
    """Whether and after how many seconds to try again. Every call only reads, so a repeat is safe.

    Exhaustion is repeated only if the server says when: a message above the size limit never gets smaller by waiting.
    """
    if not isinstance(error, grpc.RpcError):
        return False
    retry_after = _details(error)[1]
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return False if retry_after is None else retry_after
    return error.code() is grpc.StatusCode.UNAVAILABLE


def _details(error: grpc.RpcError) -> tuple[str, float | None]:
    """The service's reason and the seconds after which to try again, from the rich status in the trailers."""
    reason, retry_after = "", None
    trailers: Any = error.trailing_metadata()  # the stubs type its items as opaque; they are pairs
    for key, value in trailers or ():
        if key == DETAILS_KEY:
            for detail in status_pb2.Status.FromString(value).details:
                info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
                if detail.Unpack(info):
                    reason = info.reason
                elif detail.Unpack(retry):
                    retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    return reason, retry_after


def _remote(message: str, code: str, reason: str, retry_after: float | None) -> RemoteError:
    return _ERROR_TYPES.get(code, RemoteError)(message, code, reason, retry_after)


def _pem(path: str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
