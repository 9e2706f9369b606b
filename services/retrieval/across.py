"""Search across the archives of several owners: all are asked at once, and what came in time is merged.

Hits are ordered by (distance, owner, patch id), so that equal requests get equal answers while the same owners answer.
Which owner is left out, and why, is part of the answer. A query is not passed on: an owner answers for its own archive.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import grpc
import numpy as np
import numpy.typing as npt
import prometheus_client
import structlog

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.client.base import error_details
from eoforge.client.messages import owner_status
from eoforge.data.modalities import RETRIEVAL_MODALITIES
from eoforge.data.search_filter import SearchFilter
from eoforge.errors import DataRefused, EoforgeError, NotFound, UsageError
from services._runtime.admission import RESERVATION
from services._runtime.errors import CATALOGUE, OtherBundle
from services._runtime.fair import FairPool
from services.retrieval import answers, owners
from services.retrieval.foreign import Asked, checked
from services.retrieval.settings import RetrievalSettings
from services.retrieval.state import Served
from services.retrieval.upstream import Skipped, Upstream

ANSWERS = prometheus_client.Counter(
    "eoforge_owner_answers_total", "Answers of other owners by outcome.", ("owner", "status")
)
SECONDS = prometheus_client.Histogram("eoforge_owner_seconds", "Time until another owner had answered.", ("owner",))
SHARE_OF_TIME = 0.9
"""Part of the caller's time in which owners may answer; the rest is for merging and sending."""
MAX_WORDS = 200
"""Most characters of an owner's refusal that are passed on."""
_OWN_WORDS = {"INVALID_ARGUMENT", "LIMIT_EXCEEDED", "PERMISSION_DENIED", "NOT_FOUND"}
"""Reasons with which an owner says what to change; the words of others depend on the moment."""

log = structlog.get_logger("across")
Code = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Query:
    """Encoded query.

    Attributes:
        served: Version of this archive's index.
        code: Packed code ``[K/8]``.
        target: Sensor of the hits.
        message: Filter as it came; None without a filter.
        search_filter: The same, checked.
        k: Number of hits.
        min_recall: Least recall of the search, 1 for an exact one.
    """

    served: Served
    code: Code
    target: str
    message: pb.Filter | None
    search_filter: SearchFilter | None
    k: int
    min_recall: float


@dataclass(frozen=True)
class Part:
    """Share of one owner in an answer: its hits in order, what came of asking it, and how its index was searched."""

    hits: Sequence[pb.Hit]
    report: pb.OwnerAnswer
    exact: bool = False
    recall: float = 1.0

    @property
    def answered(self) -> bool:
        """Whether the owner answered."""
        return self.report.status == pb.OWNER_STATUS_ANSWERED

    @property
    def complete(self) -> bool:
        """Whether no patch of the owner is missing that belongs among the hits: rounded distances do not tell."""
        return self.answered and self.exact and self.report.distance_step == 1


class Across:
    """Search in this archive and in those of the upstreams.

    Args:
        settings: Names of the owners, and how they are asked.
        pool: Threads for searches and checks.

    Raises:
        UsageError: A file of an upstream cannot be used.
    """

    def __init__(self, settings: RetrievalSettings, pool: FairPool) -> None:
        self._owner, self._pool, self._max_seconds = settings.owner or "", pool, settings.max_call_seconds
        self._upstreams = [Upstream(upstream) for upstream in settings.upstreams]

    async def stop(self) -> None:
        """Ends the connections."""
        await asyncio.gather(*(upstream.close() for upstream in self._upstreams))

    async def search(self, query: Query, deadline: float | None) -> pb.SearchResponse:
        """Nearest patches of all owners that answered.

        Args:
            query: Query.
            deadline: Time by which the caller wants the answer, as ``time.monotonic()``, or None.

        Raises:
            UsageError: There are no upstreams, or this archive refuses the query and no owner answered.
            NotFound: No owner has codes of the sensor.
        """
        if not self._upstreams:
            raise UsageError("this service knows no archives of other owners: EOFORGE_UPSTREAMS names none")
        reservation = RESERVATION.get()
        held = reservation.held
        await reservation.take(sum(upstream.settings.max_answer_bytes for upstream in self._upstreams))
        left = self._max_seconds if deadline is None else min(deadline - time.monotonic(), self._max_seconds)
        try:
            (own, refusal), others = await self._asked(query, max(SHARE_OF_TIME * left, 0.0))
            parts = [own, *others]
            if refusal is not None and not any(part.answered for part in parts):
                raise refusal
            merged = await self._pool.run(_merged, parts, query)
        finally:
            reservation.resize(held)
        merged.owner = self._owner
        return merged

    async def _asked(self, query: Query, seconds: float) -> tuple[tuple[Part, EoforgeError | None], list[Part]]:
        """Part of this archive with its refusal, and those of the others, which have so many seconds."""
        own = asyncio.create_task(self._own(query))
        others = [asyncio.create_task(self._other(upstream, query, seconds)) for upstream in self._upstreams]
        try:
            return await own, await asyncio.gather(*others)
        finally:
            for task in (own, *others):
                task.cancel()

    async def _own(self, query: Query) -> tuple[Part, EoforgeError | None]:
        """Part of this archive, and its refusal: another one may know the country or the sensor."""
        snapshot = query.served.snapshot
        try:
            if query.target not in snapshot.modalities:
                raise NotFound(f"the index holds no codes of {query.target}")
            found = await self._pool.run(
                answers.nearest,
                query.served,
                query.code,
                query.target,
                query.search_filter,
                0,
                query.k,
                query.min_recall,
            )
        except (UsageError, NotFound) as error:
            return Part((), _report(self._owner, pb.OWNER_STATUS_REFUSED, str(error), error.reason)), error
        report = _report(self._owner, pb.OWNER_STATUS_ANSWERED)
        report.index_version, report.candidates, report.distance_step = found.index_version, found.candidates, 1
        for hit in found.hits:
            hit.owner = self._owner
        return Part(found.hits, report, found.exact, found.recall), None

    async def _other(self, upstream: Upstream, query: Query, seconds: float) -> Part:
        """Part of another owner; one that fails is named and left out."""
        settings, started = upstream.settings, time.perf_counter()
        code, bundle_id = query.code.tobytes(), query.served.snapshot.info.bundle_id
        target = RETRIEVAL_MODALITIES[query.target]
        request = pb.SearchRequest(
            code=code,
            target_modality=target,
            page_size=query.k,
            filter=query.message,
            visited=[self._owner],
            bundle_id=bundle_id,
            min_recall=query.min_recall,
        )
        asked = Asked(settings.owner, settings.public_address or settings.address, code, target, query.k, bundle_id)
        seconds = min(seconds, settings.deadline_seconds)
        cause, part = "", None
        try:
            found = await self._pool.run(checked, await upstream.ask(request, seconds), asked)
            report = _report(settings.owner, pb.OWNER_STATUS_ANSWERED)
            report.index_version, report.candidates = found.index_version, found.candidates
            report.distance_step = max(found.distance_step, 1)
            part = Part(found.hits, report, found.exact, found.recall)
        except Skipped as error:
            ANSWERS.labels(settings.owner, owner_status(pb.OWNER_STATUS_LATE)).inc()
            return Part((), _report(settings.owner, pb.OWNER_STATUS_LATE, str(error)))
        except TimeoutError:
            report = _late(settings.owner, settings.deadline_seconds)
        except OtherBundle as error:
            report = _report(settings.owner, pb.OWNER_STATUS_OTHER_BUNDLE, str(error), error.reason)
        except DataRefused as error:
            report = _report(settings.owner, pb.OWNER_STATUS_INVALID, f"its answer was refused: {error}")
        except grpc.aio.AioRpcError as error:
            report, cause = _failed(settings, error), error.details() or ""
        status = owner_status(report.status)
        SECONDS.labels(settings.owner).observe(time.perf_counter() - started)
        ANSWERS.labels(settings.owner, status).inc()
        if part is None:
            log.warning("an owner is left out", owner=settings.owner, status=status, why=cause[:MAX_WORDS])
        return part or Part((), report)


def _report(owner: str, status: pb.OwnerStatus, message: str = "", reason: str = "") -> pb.OwnerAnswer:
    return pb.OwnerAnswer(owner=owner, status=status, message=message, reason=reason)


def _late(owner: str, seconds: float) -> pb.OwnerAnswer:
    return _report(owner, pb.OWNER_STATUS_LATE, f"no answer within {seconds:g} s or the caller's time")


def _failed(settings: owners.Upstream, error: grpc.aio.AioRpcError) -> pb.OwnerAnswer:
    """Report of a call that failed; of an owner's own words only those pass that say what to change."""
    owner, code = settings.owner, error.code()
    reason = error_details(error)[0]
    if reason not in CATALOGUE:
        reason = ""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return _late(owner, settings.deadline_seconds)
    if reason == OtherBundle.reason:
        return _report(owner, pb.OWNER_STATUS_OTHER_BUNDLE, "its codes come from another bundle", reason)
    if reason:
        said = "".join(c if c.isprintable() else " " for c in (error.details() or "")[:MAX_WORDS])
        words = f"it says: {said}" if reason in _OWN_WORDS else f"it answers {reason}"
        return _report(owner, pb.OWNER_STATUS_REFUSED, words, reason)
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return _report(owner, pb.OWNER_STATUS_REFUSED, f"it answers {code.name}")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        most = settings.max_answer_bytes
        return _report(owner, pb.OWNER_STATUS_INVALID, f"its answer was refused: expected at most {most} bytes")
    if code is grpc.StatusCode.UNAVAILABLE:
        return _report(owner, pb.OWNER_STATUS_UNREACHABLE, "it cannot be reached")
    return _report(owner, pb.OWNER_STATUS_INVALID, f"expected a SearchResponse; the call ended with {code.name}")


def _merged(parts: Sequence[Part], query: Query) -> pb.SearchResponse:
    """Answer with the first ``k`` hits of all parts, each of which is in order."""
    parts = sorted(parts, key=lambda part: part.report.owner)
    lists = [part.hits for part in parts]
    ranked = heapq.merge(*lists, key=lambda hit: (hit.distance, hit.owner, hit.patch.patch_id))
    response = pb.SearchResponse(
        hits=islice(ranked, query.k),
        query_code=query.code.tobytes(),
        index_version=query.served.snapshot.version,
        bundle_id=query.served.snapshot.info.bundle_id,
        exact=all(part.complete for part in parts),
        recall=min(part.recall for part in parts),
        candidates=sum(part.report.candidates for part in parts),
        owners=[part.report for part in parts],
        partial=not all(part.answered for part in parts),
    )
    counts = Counter(hit.owner for hit in response.hits)
    for report in response.owners:
        report.hits = counts[report.owner]
    return response
