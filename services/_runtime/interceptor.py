"""What happens around every gRPC call: request id, trace, caller, quota, deadline, errors, metrics, access log."""

from __future__ import annotations

import asyncio
import inspect
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import grpc
import structlog

from services._runtime.auth import CALLER, Authenticator, Caller
from services._runtime.errors import Problem, abort, describe
from services._runtime.quota import Quota
from services._runtime.telemetry import IN_FLIGHT, REQUESTS, SECONDS, server_span

OPEN_PREFIXES = ("/grpc.health.v1.Health/",)
"""Served to anyone and not recorded: probes carry no token."""
OPEN_METHODS = frozenset({"/inference.GRPCInferenceService/ServerLive", "/inference.GRPCInferenceService/ServerReady"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")

log = structlog.get_logger("access")
Context = grpc.aio.ServicerContext


class Trailer(NamedTuple):
    """One trailing header; KServe's servicer reads them back by these names."""

    key: str
    value: str


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Wraps every handler but the health checks.

    Args:
        authenticator: Says who calls.
        quota: Counts per caller. A unary call beyond it fails; messages of a stream wait for their turn.
        max_call_seconds: Bound on unary calls, besides the client's own deadline.
    """

    def __init__(self, authenticator: Authenticator, quota: Quota, max_call_seconds: float) -> None:
        self._authenticator, self._quota, self._max_call_seconds = authenticator, quota, max_call_seconds

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Returns the handler wrapped for its arity."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(OPEN_PREFIXES) or method in OPEN_METHODS:
            return handler
        headers = dict(handler_call_details.invocation_metadata or ())
        coders = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": _or_bytes(handler.response_serializer),
        }
        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(self._many(handler.stream_stream, method, headers), **coders)
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(self._one(handler.stream_unary, method, headers), **coders)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(self._many(handler.unary_stream, method, headers), **coders)
        return grpc.unary_unary_rpc_method_handler(self._one(handler.unary_unary, method, headers), **coders)

    def _one(self, behaviour: Any, method: str, headers: dict[str, Any]) -> Any:
        async def answer(request: Any, context: Context[Any, Any]) -> Any:
            async with self._call(method, headers, context) as caller:
                remaining = context.time_remaining()
                limit = self._max_call_seconds if remaining is None else min(remaining, self._max_call_seconds)
                async with asyncio.timeout(None if hasattr(request, "__aiter__") else limit):
                    result = behaviour(self._paced(request, caller), context)
                    return await result if inspect.isawaitable(result) else result

        return answer

    def _many(self, behaviour: Any, method: str, headers: dict[str, Any]) -> Any:
        async def answer(request: Any, context: Context[Any, Any]) -> AsyncIterator[Any]:
            async with self._call(method, headers, context) as caller:
                results = behaviour(self._paced(request, caller), context)
                if inspect.isawaitable(results):  # a handler that writes to the context itself
                    await results
                    return
                async for result in results:
                    yield result

        return answer

    def _paced(self, request: Any, caller: Caller) -> Any:
        if not hasattr(request, "__aiter__"):
            return request

        async def paced() -> AsyncIterator[Any]:
            async for message in request:
                await self._quota.wait(caller.name)
                yield message

        return paced()

    @asynccontextmanager
    async def _call(self, method: str, headers: dict[str, Any], context: Context[Any, Any]) -> AsyncIterator[Caller]:
        request_id = request_id_of(headers.get("x-request-id"))
        structlog.contextvars.bind_contextvars(request_id=request_id, method=method)
        span = server_span(method, {k: v for k, v in headers.items() if isinstance(v, str)})
        started, code, who = time.perf_counter(), "OK", ""
        IN_FLIGHT.inc()
        try:
            caller = self._authenticator.identify(headers.get("authorization"), _names(context), _address(context))
            who = caller.name
            CALLER.set(replace(caller, certificate=_certificate(context)))
            self._quota.take(who)
            context.set_trailing_metadata((Trailer("x-request-id", request_id),))
            yield caller
        except (asyncio.CancelledError, GeneratorExit):
            code = "CANCELLED"
            raise
        except Exception as error:
            problem = describe(error, request_id)
            code = problem.entry.status.name
            report(problem, error)
            await abort(context, problem)
        finally:
            seconds = time.perf_counter() - started
            IN_FLIGHT.dec()
            REQUESTS.labels(method, code).inc()
            SECONDS.labels(method).observe(seconds)
            span.set_attribute("rpc.grpc.status", code)
            span.end()
            log.info("call", code=code, caller=who, milliseconds=round(seconds * 1000, 2))


def _or_bytes(serializer: Callable[[Any], bytes] | None) -> Callable[[Any], bytes] | None:
    """Lets a servicer that has written a large answer itself give it as bytes."""
    if serializer is None:
        return None
    return lambda message: message if isinstance(message, bytes) else serializer(message)


def report(problem: Problem, error: BaseException) -> None:
    """Writes to the log what the answer keeps to itself."""
    if problem.hides:
        log.error("failed", reason=problem.reason, request_id=problem.request_id, exc_info=error)


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
