"""What an owner lets other owners have: fields, filters, number of hits, rate and precision, and a line per query.

A partner is a caller that asks on behalf of another owner. It may search by code and nothing else: pictures and pixels
are asked by people, under their own rights. A caller without an entry keeps all rights of an ordinary caller, but a
query that says that it comes from another owner needs an entry.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence, Set

import structlog
from google.protobuf.message import Message

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.data.modalities import MODALITY_NAMES
from eoforge.errors import EoforgeError, LimitExceeded, UsageError
from eoforge.hashing.lengths import MAX_CODE_BITS
from services._runtime.admission import Quota
from services._runtime.auth import CALLER
from services._runtime.errors import PermissionDenied, argument
from services._runtime.fair import FairPool, caller_name
from services._runtime.rest_guard import CERTIFICATE_CALLER
from services.retrieval import owners
from services.retrieval.paging import DEFAULT_PAGE

MAX_VISITED = 8
"""Most owners that a query may name as passed."""
_OWNER = re.compile(owners.OWNER_PATTERN)
ASKED = frozenset(
    ("code", "query_modality", "target_modality", "filter", "page_size", "min_recall", "visited", "bundle_id")
)
"""Fields of a request of another owner. What is not listed is refused: a field that is added later is no right."""
_HIT = frozenset(("patch", "modality", "distance"))
"""Fields of a hit that may leave, of the patch those that the partner has."""

audit = structlog.get_logger("audit")
Search = Callable[[], Awaitable[pb.SearchResponse]]


class Partners:
    """Rights of the callers that ask for other owners.

    Args:
        owner: Name of this archive's owner.
        partners: Their rights.
        pool: Threads in which answers are reduced.
    """

    def __init__(self, owner: str | None, partners: Sequence[owners.Partner], pool: FairPool) -> None:
        self._owner, self._pool = owner or "", pool
        self._by_caller = {partner.caller: partner for partner in partners}
        self._quotas = {p.caller: Quota(p.quota_per_second, p.quota_burst) for p in partners}

    async def answer(self, request: pb.SearchRequest, search: Search) -> pb.SearchResponse:
        """Answer to the current caller: whole for an ordinary one, reduced and audited for another owner.

        Args:
            request: Request of the caller.
            search: Search for it.

        Raises:
            UsageError: The query has been here before, is to be passed on, or is more than a partner may ask.
            PermissionDenied: It comes from another owner, and its caller is no partner.
            QuotaExceeded: The partner asks too often.
        """
        caller = caller_name()
        if caller not in self._by_caller and not request.visited:
            return await search()
        outcome, hits = "UNFINISHED", 0
        try:
            partner = self._partner(caller, request)
            self._quotas[partner.caller].take(caller)
            require_allowed(request, partner)
            response = await self._pool.run(reduced, await search(), partner, self._owner)
            outcome, hits = "OK", len(response.hits)
            return response
        except EoforgeError as error:
            outcome = error.reason
            raise
        finally:
            audit.info(
                "query of another owner",
                caller=caller,
                visited=[name for name in request.visited[:MAX_VISITED] if _OWNER.fullmatch(name)],
                target=MODALITY_NAMES.get(request.target_modality, ""),
                code=request.code[: MAX_CODE_BITS // 8].hex(),
                filters=_filters(request),
                asked=request.page_size or DEFAULT_PAGE,
                hits=hits,
                outcome=outcome,
            )

    def require_own(self) -> None:
        """Check that the current caller is no partner, for calls other than Search.

        Raises:
            PermissionDenied: It is one, or REST hides which certificate it shows.
        """
        name = caller_name()
        if name in self._by_caller:
            raise PermissionDenied("this archive answers searches by code for other owners, and no other calls")
        found = CALLER.get(None)
        hidden = found is not None and found.way == "certificate" and name in CERTIFICATE_CALLER
        if hidden and set(self._by_caller) - {owners.EVERY_HUB}:
            raise PermissionDenied("REST does not tell client certificates apart, and some have fewer rights: use gRPC")

    def _partner(self, caller: str, request: pb.SearchRequest) -> owners.Partner:
        with argument("visited"):
            if (passed := len(request.visited)) > MAX_VISITED:
                raise LimitExceeded(f"a query may have passed {MAX_VISITED} owners; this one names {passed}")
            if not all(_OWNER.fullmatch(name) for name in request.visited):
                raise UsageError("visited must hold names of owners: small letters, digits, '.' and '-'")
            if self._owner and self._owner in request.visited:
                way = " > ".join((*request.visited, self._owner))
                raise UsageError(f"the upstreams form a loop: this query has come the way {way}")
        partner = self._by_caller.get(caller) or self._by_caller.get(owners.EVERY_HUB)
        if partner is None:
            raise PermissionDenied("this archive answers queries of other owners for its partners; this caller is none")
        return partner


def require_allowed(request: pb.SearchRequest, partner: owners.Partner) -> None:
    """Check that a partner may ask that.

    Raises:
        UsageError: It is no search by code, is to be passed on, or asks for pictures, pages or a filter that is not
            allowed.
        LimitExceeded: It asks for too many hits.
    """
    if request.across:
        with argument("across"):
            raise UsageError("a query of another owner is not passed on: ask each owner directly")
    if request.WhichOneof("query") != "code":
        with argument("code"):
            raise UsageError("a query of another owner is a code; got none")
    for field, _ in request.ListFields():
        if field.name not in ASKED:
            with argument(field.name):
                raise UsageError(
                    f"{field.name} is not for other owners: pictures, codes and pages are asked by people themselves"
                )
    refused = [name for name in _filters(request) if name not in partner.filters]
    if refused:
        with argument(f"filter.{refused[0]}"):
            allowed = ", ".join(partner.filters) or "none"
            raise UsageError(f"this archive does not filter by {refused[0]} for other owners; it does by {allowed}")
    if (asked := request.page_size or DEFAULT_PAGE) > partner.max_hits:
        with argument("page_size"):
            raise LimitExceeded(f"this archive gives other owners at most {partner.max_hits} hits; asked for {asked}")


def reduced(response: pb.SearchResponse, partner: owners.Partner, owner: str) -> pb.SearchResponse:
    """Answer without what may not leave, with distances as precise as they may be."""
    step, hits = partner.distance_step, list(response.hits)
    shown = {"patch_id", *partner.fields}
    for hit in hits:
        _keep(hit, _HIT)
        _keep(hit.patch, shown)
        hit.owner = owner
        if step > 1:
            largest = 8 * len(response.query_code) // step * step
            hit.distance = min((hit.distance + step // 2) // step * step, largest)
    if step > 1:  # the order would tell what the distances do not
        hits.sort(key=lambda hit: (hit.distance, hit.patch.patch_id))
    answer = pb.SearchResponse(
        hits=hits,
        query_code=response.query_code,
        index_version=response.index_version,
        bundle_id=response.bundle_id,
        owner=owner,
        distance_step=step,
        exact=response.exact,
        recall=response.recall,
    )
    if "candidates" in partner.fields:
        answer.candidates = response.candidates
    return answer


def _keep(message: Message, names: Set[str]) -> None:
    """Clears all fields of a message but the named ones."""
    for field, _ in message.ListFields():
        if field.name not in names:
            message.ClearField(field.name)


def _filters(request: pb.SearchRequest) -> list[str]:
    """Names of the conditions that a request sets."""
    return [field.name for field, _ in request.filter.ListFields()]
