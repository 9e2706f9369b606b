"""Interceptor of every gRPC call: request id, trace, caller, quota, deadline, errors, metrics, access log.

Order: the caller is identified by metadata and certificate, admitted, and given room for a message; only then
is the message taken from the transport, counted on the wire, and parsed.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import grpc
import structlog

from eoforge.errors import EoforgeError, LimitExceeded, UsageError
from services._runtime import wire
from services._runtime.admission import RESERVATION, Admission, Budget, Quota, Reservation
from services._runtime.auth import CALLER, Authenticator, Caller
from services._runtime.errors import DeadlineExceeded, abort, describe, forget, report
from services._runtime.fair import FairPool
from services._runtime.settings import RuntimeSettings
from services._runtime.telemetry import IN_FLIGHT, REQUESTS, SECONDS, server_span
from services._runtime.turns import InTurn, Turns
from services._runtime.wire import COPIES, Limits

OPEN_PREFIXES = ("/grpc.health.v1.Health/",)
"""Methods without authentication and access log: probes carry no token."""
OPEN_METHODS = frozenset({"/inference.GRPCInferenceService/ServerLive", "/inference.GRPCInferenceService/ServerReady"})
OPEN_BYTES, OPEN_SECONDS = 1024, 5.0
OPEN_CALLS, OPEN_CALLS_EACH = 64, 16
"""Limits on calls without authentication at the same time, over all and per address."""
WATCH = "/grpc.health.v1.Health/Watch"
WATCHES, WATCHES_EACH, WATCH_SECONDS = 64, 8, 600.0
"""The same for watches of health, which last: they take no places of checks, and end, so that a client asks again."""
INLINE_BYTES = 4096
"""Largest message that is parsed on the event loop: a thread would take longer."""
PARSERS = 2
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")

EOF = grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs leave it out

log = structlog.get_logger("access")
Context = grpc.aio.ServicerContext


class Trailer(NamedTuple):
    """One trailing header; KServe's servicer reads them back by these names."""

    key: str
    value: str


@dataclass(frozen=True)
class Reception:
    """Reception of messages: limits on number and size, and threads that parse.

    Attributes:
        settings: Limits of the process.
        budget: Bytes in flight.
        admission: Calls and streams at the same time.
        limits: Elements and depth of a message.
        turns: Time that copies take on the event loop.
        pool: Threads that parse large messages.
        max_bytes: Largest message of the whole server; gRPC refuses larger ones before they are received.
        default_bytes: Largest message of a method that ``sizes`` does not name.
        sizes: Full method name -> largest message.
        seconds: Longest time for the message of a call to arrive.
        idle_seconds: Longest time between messages of a stream.
    """

    settings: RuntimeSettings
    budget: Budget
    admission: Admission
    limits: Limits
    turns: Turns
    pool: FairPool
    max_bytes: int
    default_bytes: int
    sizes: Mapping[str, int]
    seconds: float
    idle_seconds: float

    @classmethod
    def of(cls, settings: RuntimeSettings, sizes: Mapping[str, int]) -> Reception:
        """Reception by the settings."""
        return cls(
            settings,
            Budget(settings.max_inflight_bytes, settings.receive_seconds),
            Admission(settings.max_calls, settings.max_calls_per_caller, settings.max_streams_per_caller),
            Limits(settings.max_elements),
            Turns(),
            FairPool(PARSERS, settings.max_calls, "parsing"),
            settings.max_message_bytes,
            settings.max_plain_bytes,
            sizes,
            settings.receive_seconds,
            settings.stream_idle_seconds,
        )

    async def parse(self, method: str, raw: bytes, kind: Any, reservation: Reservation) -> Any:
        """Parsed message; the bytes themselves if ``kind`` is None.

        Raises:
            LimitExceeded: The message is too large or holds too many elements.
            UsageError: The bytes are no message of this kind.
        """
        limit = min(self.max_bytes, self.sizes.get(method, self.default_bytes))
        if len(raw) > limit:
            raise LimitExceeded(f"a message of {method} may have {limit} bytes; this one has {len(raw)}")
        if kind is None:
            reservation.resize(COPIES * len(raw))
            return raw
        if len(raw) <= INLINE_BYTES:
            message, size = wire.parse(raw, kind, self.limits)
        else:
            message, size = await self.pool.run(wire.parse, raw, kind, self.limits, cost=len(raw))
        reservation.resize(size)
        return message


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Wraps every handler.

    Every method is registered as if it took a stream of bytes: on the wire that is the same, and gRPC then leaves the
    first message where it is until the handler asks for it, which is after the caller is known.

    Args:
        authenticator: Authentication of callers.
        quota: Counts per caller. A unary call beyond it fails; messages of a stream wait for their turn.
        reception: Reception of messages.
        max_call_seconds: Bound on unary calls, besides the client's own deadline.
        admit: Check of a caller, also while a call is open; raises for a caller that is not admitted.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        quota: Quota,
        reception: Reception,
        max_call_seconds: float,
        admit: Callable[[Caller], None] | None = None,
    ) -> None:
        self._authenticator, self._quota, self._reception = authenticator, quota, reception
        self._max_call_seconds = max_call_seconds
        self._open = Admission(OPEN_CALLS, OPEN_CALLS_EACH, OPEN_CALLS_EACH)
        self._watches = Admission(WATCHES, WATCHES_EACH, WATCHES_EACH)
        self._admit = admit or (lambda _: None)
        self._callers: dict[asyncio.Task[Any], Caller] = {}
        self._refusals: dict[asyncio.Task[Any], EoforgeError] = {}

    def readmit(self) -> None:
        """Ends the open calls of callers that are not admitted any more."""
        for task, caller in list(self._callers.items()):
            try:
                self._admit(caller)
            except EoforgeError as error:
                if task not in self._refusals:
                    self._refusals[task] = error
                    task.cancel()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Returns the handler wrapped for its arity."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            return handler
        headers = dict(handler_call_details.invocation_metadata or ())
        behaviour = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        kind = getattr(handler.request_deserializer, "__self__", None)
        serializer = _or_bytes(handler.response_serializer)
        if method.startswith(OPEN_PREFIXES) or method in OPEN_METHODS:
            places, seconds = (self._watches, WATCH_SECONDS) if method == WATCH else (self._open, OPEN_SECONDS)
            return _made(
                self._unauthenticated(behaviour, kind, places, seconds), handler.response_streaming, serializer
            )
        wrap = self._many if handler.response_streaming else self._one
        wrapped = wrap(behaviour, method, headers, kind, handler.request_streaming)
        return _made(wrapped, True, serializer)

    def _one(self, behaviour: Any, method: str, headers: dict[str, Any], kind: Any, streaming: bool) -> Any:
        async def answer(_: Any, context: Context[Any, Any]) -> None:
            async with _Trimmed(), self._call(method, headers, context, streaming) as caller:
                remaining = context.time_remaining()
                limit = self._max_call_seconds if remaining is None else min(remaining, self._max_call_seconds)
                async with asyncio.timeout(None if streaming else limit):
                    request = await self._request(method, kind, caller, context, streaming)
                    result = behaviour(request, context)
                    del request
                    await self._write(context, await result if inspect.isawaitable(result) else result)

        return answer

    def _many(self, behaviour: Any, method: str, headers: dict[str, Any], kind: Any, streaming: bool) -> Any:
        async def answer(_: Any, context: Context[Any, Any]) -> None:
            async with _Trimmed(), self._call(method, headers, context, streaming) as caller:
                results = behaviour(await self._request(method, kind, caller, context, streaming), context)
                if inspect.isawaitable(results):  # a handler that writes to the context itself
                    await results
                    return
                async with aclosing(results):
                    async for result in results:
                        await self._write(context, result)
                        del result

        return answer

    def _unauthenticated(self, behaviour: Any, kind: Any, places: Admission, seconds: float) -> Any:
        """Handler without authentication: few and short calls at the same time from one address, small messages."""

        async def answer(_: Any, context: Context[Any, Any]) -> Any:
            try:
                with places.enter(_address(context)):
                    raw = await self._read(context, OPEN_SECONDS)
                    if raw is EOF or len(raw) > OPEN_BYTES:
                        raise LimitExceeded(f"expected a message of at most {OPEN_BYTES} bytes")
                    request = raw if kind is None else wire.parse(raw, kind, self._reception.limits)[0]
                    async with asyncio.timeout(seconds):
                        return await behaviour(request, context)
            except TimeoutError:
                late = DeadlineExceeded(f"a call without authentication may take {seconds:g} s; call again")
                return await abort(context, describe(late, uuid.uuid4().hex))
            except EoforgeError as error:
                return await abort(context, describe(error, uuid.uuid4().hex))

        return answer

    async def _request(
        self, method: str, kind: Any, caller: Caller, context: Context[Any, Any], streaming: bool
    ) -> Any:
        """The message of a call, or the messages one after the other."""
        reception, reservation = self._reception, RESERVATION.get()
        if streaming:
            return self._paced(method, kind, caller, context)
        await reservation.take(reception.max_bytes)
        raw = await self._read(context, reception.seconds)
        if raw is EOF:
            raise UsageError("expected one message; the call has none")
        return await reception.parse(method, raw, kind, reservation)

    async def _paced(self, method: str, kind: Any, caller: Caller, context: Context[Any, Any]) -> AsyncIterator[Any]:
        reception, reservation = self._reception, RESERVATION.get()

        async def message() -> Any:
            raw = await self._read(context, reception.idle_seconds)
            if raw is EOF:
                return raw
            await self._quota.wait(caller.name)
            await reservation.take(COPIES * len(raw))
            return await reception.parse(method, raw, kind, reservation)

        while (taken := await message()) is not EOF:
            box = [taken]
            del taken
            yield box.pop()  # nothing here keeps a message while its stream is worked on
            reservation.resize(0)

    async def _read(self, context: Context[Any, Any], seconds: float) -> Any:
        try:
            async with asyncio.timeout(seconds):
                return await InTurn(context.read(), self._reception.turns, RESERVATION.get().caller)
        except TimeoutError as error:
            raise DeadlineExceeded(f"no message arrived within {seconds:g} s") from error

    async def _write(self, context: Context[Any, Any], answer: Any) -> None:
        """Sends an answer before the call ends, so that one which nobody reads stays in its caller's share of bytes.

        Raises:
            CancelledError: The caller is gone.
        """
        self._reception.budget.within(RESERVATION.get())  # sending may take as long as the reader likes
        try:
            await InTurn(context.write(answer), self._reception.turns, RESERVATION.get().caller)
        except grpc.aio.InternalError as error:
            raise asyncio.CancelledError from error

    @asynccontextmanager
    async def _call(
        self, method: str, headers: dict[str, Any], context: Context[Any, Any], streaming: bool
    ) -> AsyncIterator[Caller]:
        request_id = request_id_of(headers.get("x-request-id"))
        structlog.contextvars.bind_contextvars(request_id=request_id, method=method)
        span = server_span(method, {k: v for k, v in headers.items() if isinstance(v, str)})
        started, code, who = time.perf_counter(), "OK", ""
        IN_FLIGHT.inc()
        reservation, task = Reservation(None, ""), asyncio.current_task()
        assert task is not None
        try:
            caller = self._authenticator.identify(headers.get("authorization"), _names(context), _address(context))
            who = caller.name
            CALLER.set(caller := replace(caller, certificate=_certificate(context)))
            self._admit(caller)
            self._callers[task] = caller
            self._quota.take(who)
            context.set_trailing_metadata((Trailer("x-request-id", request_id),))
            with self._reception.admission.enter(who, streams=streaming):
                RESERVATION.set(reservation := Reservation(self._reception.budget, who))
                yield caller
        except GeneratorExit:
            code = "CANCELLED"
            raise
        except (Exception, asyncio.CancelledError) as caught:
            error = self._refusals.get(task) if isinstance(caught, asyncio.CancelledError) else caught
            if error is None:
                code = "CANCELLED"
                raise
            if error is not caught:
                task.uncancel()
            problem = describe(error, request_id)
            code = problem.entry.status.name
            report(problem, error)
            forget(error)
            await abort(context, problem)
        finally:
            self._callers.pop(task, None)
            self._refusals.pop(task, None)
            seconds = time.perf_counter() - started
            reservation.resize(0)
            IN_FLIGHT.dec()
            REQUESTS.labels(method, code).inc()
            SECONDS.labels(method).observe(seconds)
            span.set_attribute("rpc.grpc.status", code)
            span.end()
            log.info("call", code=code, caller=who, milliseconds=round(seconds * 1000, 2))


class _Trimmed:
    """Context that drops the traceback of an aborted call: gRPC keeps the error, and its frames hold the message."""

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        del traceback
        if isinstance(error, grpc.aio.AbortError):
            error.__traceback__ = None


def _made(behaviour: Any, many: bool, serializer: Any) -> Any:
    make = grpc.stream_stream_rpc_method_handler if many else grpc.stream_unary_rpc_method_handler
    return make(behaviour, request_deserializer=None, response_serializer=serializer)


def _or_bytes(serializer: Callable[[Any], bytes] | None) -> Callable[[Any], bytes] | None:
    """Lets a servicer that has written a large answer itself give it as bytes."""
    if serializer is None:
        return None
    return lambda message: message if isinstance(message, bytes) else serializer(message)


def request_id_of(given: Any) -> str:
    """The caller's request id if it is a harmless one, else a new one."""
    return given if isinstance(given, str) and _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _names(context: Context[Any, Any]) -> list[str]:
    return [n.decode(errors="replace") for n in context.auth_context().get("x509_subject_alternative_name", ())]


def _certificate(context: Context[Any, Any]) -> bytes:
    return next(iter(context.auth_context().get("x509_pem_cert", ())), b"")


def _address(context: Context[Any, Any]) -> str:
    """The peer without its port, so that a quota holds over many connections."""
    return context.peer().rsplit(":", 1)[0]
