"""Connection to the retrieval service of another owner: one question, retried and hedged within its deadline.

A search changes nothing, so that it may be sent again. Retries follow what the owner asks for (``RetryInfo``); a hedge
is a second call over a connection of its own, because calls that share a broken connection break together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.client.base import retry_wait
from eoforge.errors import EoforgeError, UsageError
from services._runtime.files import ReloadedFiles
from services.retrieval import owners
from services.retrieval.breaker import Breaker

SEARCH = "/" + pb.DESCRIPTOR.services_by_name["RetrievalService"].full_name + "/Search"
MAX_TOKEN_CHARS = 8192
FIRST_WAIT_S = 0.05
CLOSE_S = 60.0
SHARE_OF_DEADLINE = 0.5
"""Part of its deadline that an owner must have had for a time-out to count."""


class Skipped(EoforgeError):
    """Owner that was not asked, because it did not answer in time before."""


@dataclass(frozen=True)
class Secrets:
    """Contents of the files of an upstream; None for those that it has not."""

    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    token: str | None = None


class Upstream:
    """Archive of another owner.

    Args:
        settings: Where and how it is asked.

    Raises:
        UsageError: A file of the settings cannot be used.
    """

    def __init__(self, settings: owners.Upstream) -> None:
        self.settings = settings
        files = {
            "ca": settings.ca_file,
            "certificate": settings.cert_file,
            "key": settings.key_file,
            "token": settings.token_file,
        }
        given = {name: path for name, path in files.items() if path is not None}
        self._files = _secrets(settings.owner, given) if given else None
        self._used = Secrets()
        self._channels: dict[int, grpc.aio.Channel] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._gone = False
        """Whether the last call found nobody: then one attempt is enough, so that searches do not wait for it."""
        self._places = asyncio.Semaphore(settings.max_calls)
        self._breaker = Breaker(settings.skip_after, settings.skip_seconds)

    async def ask(self, request: pb.SearchRequest, seconds: float) -> bytes:
        """Serialised answer of the owner.

        Args:
            request: Question.
            seconds: Time for it, in which it is repeated if need be.

        Raises:
            Skipped: The owner did not answer in time before, so that it is not asked now.
            TimeoutError: There was no answer in that time.
            grpc.aio.AioRpcError: The last attempt failed, or the owner refused.
        """
        # The time of a hasty caller says nothing about the owner, and neither does a wait for a place.
        fair, asked = seconds >= SHARE_OF_DEADLINE * self.settings.deadline_seconds, False
        if wait := self._breaker.wait(probe=fair):
            raise Skipped(
                f"not asked: no answer came in time {self.settings.skip_after} times in a row; it is asked again in "
                f"{wait:.0f} s"
            )
        message, end = request.SerializeToString(deterministic=True), time.monotonic() + seconds
        try:
            async with asyncio.timeout(seconds), self._places:
                asked = True
                answer = await self._hedged(message, end)
        except (TimeoutError, grpc.aio.AioRpcError) as error:
            late = isinstance(error, TimeoutError) or error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            if not late or (fair and asked):
                self._breaker.record(late)
            raise
        self._breaker.record(late=False)
        return answer

    async def close(self) -> None:
        """Ends the connections."""
        await asyncio.gather(*(channel.close(None) for channel in self._channels.values()), *self._closing)
        self._channels.clear()

    async def _hedged(self, message: bytes, end: float) -> bytes:
        tasks = [asyncio.create_task(self._retried(0, message, end))]
        try:
            if self.settings.hedge_seconds is not None:
                done, _ = await asyncio.wait(tasks, timeout=self.settings.hedge_seconds)
                if not done:
                    tasks.append(asyncio.create_task(self._retried(1, message, end)))
            for first in asyncio.as_completed(tasks):
                try:
                    return await first
                except grpc.aio.AioRpcError as error:
                    failed = error
            raise failed
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _retried(self, number: int, message: bytes, end: float) -> bytes:
        attempts = 1 if self._gone else self.settings.attempts
        for attempt in range(1, attempts + 1):
            try:
                answer = await self._call(number, message, end - time.monotonic())
                self._gone = False
                return answer
            except grpc.aio.AioRpcError as error:
                wait = retry_wait(error)
                seconds = FIRST_WAIT_S * 2 ** (attempt - 1) if wait is True else float(wait)
                if wait is False or attempt == attempts or time.monotonic() + seconds >= end:
                    self._gone = error.code() is grpc.StatusCode.UNAVAILABLE
                    raise
            await asyncio.sleep(seconds)
        raise RuntimeError("a call has at least one attempt")

    async def _call(self, number: int, message: bytes, seconds: float) -> bytes:
        channel = self._channel(number)
        token = self._used.token
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        method = channel.unary_unary(SEARCH, request_serializer=None, response_deserializer=None)
        answer: bytes = await method(message, timeout=max(seconds, 0.0), metadata=metadata)
        return answer

    def _channel(self, number: int) -> grpc.aio.Channel:
        """Connection ``number``, with the files as they are now."""
        now = Secrets() if self._files is None else self._files.value
        if now is not self._used and now != self._used:
            for old in self._channels.values():
                closing = asyncio.create_task(old.close(CLOSE_S))
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
            self._channels.clear()
        self._used = now
        if number not in self._channels:
            self._channels[number] = self._open(now)
        return self._channels[number]

    def _open(self, secrets: Secrets) -> grpc.aio.Channel:
        options = [
            ("grpc.max_receive_message_length", self.settings.max_answer_bytes),
            # Compressed, a small message could become a large one.
            ("grpc.compression_enabled_algorithms_bitset", 1),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2000),
        ]
        if not self.settings.uses_tls:
            return grpc.aio.insecure_channel(self.settings.address, options)
        credentials = grpc.ssl_channel_credentials(secrets.ca, secrets.key, secrets.certificate)
        return grpc.aio.secure_channel(self.settings.address, credentials, options)


def _secrets(owner: str, paths: dict[str, Path]) -> ReloadedFiles[Secrets]:
    names: Sequence[str] = list(paths)

    def parse(*contents: bytes) -> Secrets:
        found = dict(zip(names, contents, strict=True))
        for name in ("ca", "certificate"):
            if name in found:
                x509.load_pem_x509_certificates(found[name])
        if "key" in found:
            load_pem_private_key(found["key"], None)
        token = found["token"].decode().strip() if "token" in found else None
        if token is not None and not (token.isascii() and token.isprintable() and 0 < len(token) <= MAX_TOKEN_CHARS):
            raise UsageError(f"expected a token of 1 to {MAX_TOKEN_CHARS} characters on one line")
        return Secrets(found.get("ca"), found.get("certificate"), found.get("key"), token)

    return ReloadedFiles(f"EOFORGE_UPSTREAMS ({owner})", list(paths.values()), parse)
