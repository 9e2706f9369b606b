"""Servicer of the typed API. Each call uses one version of the index; blocking work runs in threads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.api.retrieval.v1 import retrieval_pb2_grpc
from eoforge.data.modalities import MODALITY_NAMES, RETRIEVAL_MODALITIES
from eoforge.data.search_filter import SearchFilter
from eoforge.errors import LimitExceeded, NotFound, UsageError
from eoforge.index.ivf.search import IvfSnapshot
from eoforge.index.ivf.table import EXACT, IVF, require_recall
from eoforge.index.search import MAX_K
from services._runtime.errors import OtherBundle, argument
from services._runtime.fair import FairPool
from services._runtime.ordered import answers_of, deadline_of
from services.retrieval import answers
from services.retrieval.across import Across, Query
from services.retrieval.batching import EncodeBatcher
from services.retrieval.images import Raster, from_bands, from_geotiff
from services.retrieval.paging import page_of, token_for
from services.retrieval.partners import Partners
from services.retrieval.settings import RetrievalSettings
from services.retrieval.state import IndexHolder, Served

STREAM_WINDOW = 16
"""Concurrent searches of one stream."""
MAX_PATCH_ID_CHARS = 128

Context = grpc.aio.ServicerContext
Code = npt.NDArray[np.uint8]


class RetrievalServicer(retrieval_pb2_grpc.RetrievalServiceServicer):
    """Implementation of ``RetrievalService``; the interceptor of the runtime maps raised errors to statuses."""

    def __init__(
        self,
        settings: RetrievalSettings,
        holder: IndexHolder,
        batcher: EncodeBatcher,
        pool: FairPool,
        reads: FairPool,
        across: Across,
        partners: Partners,
    ) -> None:
        self._settings, self._holder, self._batcher, self._pool = settings, holder, batcher, pool
        self._reads, self._others, self._partners = reads, across, partners

    async def Search(self, request: pb.SearchRequest, context: Context[Any, Any]) -> pb.SearchResponse:
        """See the proto."""
        return await self._partners.answer(request, lambda: self._search(request, deadline_of(context)))

    async def SearchStream(
        self, requests: AsyncIterator[pb.SearchStreamRequest], context: Context[Any, Any]
    ) -> AsyncIterator[pb.SearchStreamResponse]:
        """See the proto. Searches run concurrently within a window, so that their images share encoder batches."""
        self._partners.require_own()
        deadline = deadline_of(context)

        def search(given: pb.SearchStreamRequest) -> Awaitable[pb.SearchResponse]:
            if given.search.visited:
                raise UsageError("visited belongs to Search: a service asks another one by single calls")
            return self._search(given.search, deadline)

        found = answers_of(requests, pb.SearchStreamResponse, pb.Error, search, STREAM_WINDOW)
        async with aclosing(found) as responses:
            async for response in responses:
                yield response

    async def Encode(self, request: pb.EncodeRequest, context: Context[Any, Any]) -> pb.EncodeResponse:
        """See the proto."""
        self._partners.require_own()
        if len(request.images) > self._settings.max_images:
            raise LimitExceeded(
                f"a request holds at most {self._settings.max_images} images; got {len(request.images)}"
            )
        served = self._holder.current
        rasters = [await self._pool.run(self._image, image, served) for image in request.images]
        encodings = await self._batcher.encode(served.encoder, rasters, deadline_of(context))
        return await self._pool.run(answers.encode_response, encodings, served.bundle.id)

    async def GetPatch(self, request: pb.GetPatchRequest, context: Context[Any, Any]) -> pb.GetPatchResponse:
        """See the proto."""
        self._partners.require_own()
        return await self._reads.run(answers.patch_response, self._holder.current, request)

    async def ListIndexes(self, request: pb.ListIndexesRequest, context: Context[Any, Any]) -> pb.ListIndexesResponse:
        """See the proto. The list has one page, so no page token is valid."""
        self._partners.require_own()
        if request.page_token:
            with argument("page_token"):
                raise UsageError("page_token was not issued by this service; the list has one page")
        served = self._holder.current
        snapshot = served.snapshot
        modalities = [
            pb.ModalitySize(modality=RETRIEVAL_MODALITIES[m], patches=snapshot.count(m), bands=served.bands(m))
            for m in snapshot.modalities
        ]
        index = pb.Index(
            name=self._settings.index_name,
            version=snapshot.version,
            method=snapshot.info.method,
            bundle_id=served.bundle.id,
            bits=served.encoder.bits,
            embedding_dim=served.encoder.embedding_dim,
            patches_version=snapshot.info.patches.version,
            modalities=modalities,
            engine=IVF if isinstance(snapshot, IvfSnapshot) else EXACT,
        )
        if isinstance(snapshot, IvfSnapshot) and snapshot.ivf is not None:
            settings = snapshot.ivf.recall.items()
            index.recalls.extend(pb.ProbeRecall(partitions=probes, recall=recall) for probes, recall in settings)
        return pb.ListIndexesResponse(indexes=[index])

    async def _search(self, request: pb.SearchRequest, deadline: float | None) -> pb.SearchResponse:
        served = self._holder.current
        version = served.snapshot.version
        with argument("target_modality"):
            target = _modality(request.target_modality, "target_modality")
        bundle_id = served.snapshot.info.bundle_id
        if request.bundle_id and request.bundle_id != bundle_id:
            raise OtherBundle("the codes of this index come from another bundle than the code of the query")
        if request.across:
            return await self._search_across(request, served, target, deadline)
        if target not in served.snapshot.modalities:
            raise NotFound(f"the index holds no codes of {target}")
        offset, size = self._page(request, version)
        search_filter = _filter(request)
        min_recall = self._recall(request)
        code = await self._query_code(request, served, deadline)
        response = await self._pool.run(
            answers.nearest, served, code, target, search_filter, offset, size, min_recall, request.include_codes
        )
        if request.include_thumbnails and response.hits:
            await self._reads.run(answers.add_thumbnails, served, response.hits, target)
        end = offset + size
        if response.candidates > end and end < MAX_K:
            response.next_page_token = token_for(request, version, end)
        response.bundle_id, response.owner = bundle_id, self._settings.owner or ""
        return response

    async def _search_across(
        self, request: pb.SearchRequest, served: Served, target: str, deadline: float | None
    ) -> pb.SearchResponse:
        if request.page_token:
            with argument("page_token"):
                raise UsageError(f"a search across archives has one page of up to {MAX_K} hits; leave page_token out")
        _, size = self._page(request, served.snapshot.version)
        search_filter = _filter(request)
        code = await self._query_code(request, served, deadline)
        message = request.filter if search_filter is not None else None
        query = Query(served, code, target, message, search_filter, size, self._recall(request))
        response = await self._others.search(query, deadline)
        if request.include_thumbnails and (own := [hit for hit in response.hits if not hit.owner_address]):
            await self._reads.run(answers.add_thumbnails, served, own, target)
        return response

    def _recall(self, request: pb.SearchRequest) -> float:
        with argument("min_recall"):
            return require_recall(request.min_recall or self._settings.min_recall)

    def _page(self, request: pb.SearchRequest, version: int) -> tuple[int, int]:
        """Offset and size of the page."""
        offset, size = page_of(request, version, self._settings.max_page_size)
        if request.include_thumbnails and size > self._settings.max_thumbnails:
            raise LimitExceeded(
                f"a page with thumbnails may hold at most {self._settings.max_thumbnails} hits; got page_size {size}"
            )
        return offset, size

    async def _query_code(self, request: pb.SearchRequest, served: Served, deadline: float | None) -> Code:
        kind = request.WhichOneof("query")
        if kind == "patch_id":
            if len(request.patch_id) > MAX_PATCH_ID_CHARS:
                with argument("patch_id"):
                    raise LimitExceeded(f"patch_id may have at most {MAX_PATCH_ID_CHARS} characters")
            with argument("query_modality"):
                modality = _modality(request.query_modality, "query_modality")
            if isinstance(served.snapshot, IvfSnapshot):  # it reads the store
                return await self._reads.run(answers.code_of, served.snapshot, request.patch_id, modality)
            return answers.code_of(served.snapshot, request.patch_id, modality)
        if kind == "code":
            if len(request.code) != served.encoder.bits // 8:
                with argument("code"):
                    raise UsageError(
                        f"codes of this index have {served.encoder.bits // 8} bytes ({served.encoder.bits} bits); "
                        f"got {len(request.code)} bytes"
                    )
            return np.frombuffer(request.code, dtype=np.uint8)
        if kind is None:
            raise UsageError("a search needs one of patch_id, bands, geotiff and code; got none")
        given = getattr(request, kind)
        image = pb.Image(**{kind: given})
        if request.query_modality and given.modality and request.query_modality != given.modality:
            with argument("query_modality"):
                raise UsageError("query_modality contradicts the image's own modality; leave query_modality out")
        with argument(kind):
            raster = await self._pool.run(self._image, image, served, request.query_modality)
        [(code, _)] = await self._batcher.encode(served.encoder, [raster], deadline)
        return code

    def _image(self, image: pb.Image, served: Served, fallback: int = pb.MODALITY_UNSPECIFIED) -> Raster:
        kind = image.WhichOneof("source")
        if kind is None:
            raise UsageError("an image needs bands or geotiff; got neither")
        given = getattr(image, kind)
        modality = _modality(given.modality or fallback, "modality of the image")
        if modality not in served.encoder.modalities:
            raise UsageError(f"this index encodes {', '.join(served.encoder.modalities)}; got an image of {modality}")
        if kind == "geotiff":
            return from_geotiff(given, modality, served.bands(modality), self._settings.max_image_bytes)
        return from_bands(given, modality, served.bands(modality))


def _filter(request: pb.SearchRequest) -> SearchFilter | None:
    with argument("filter"):
        return answers.search_filter(request.filter) if request.HasField("filter") else None


def _modality(number: int, what: str) -> str:
    if number not in MODALITY_NAMES:
        raise UsageError(f"{what} must be MODALITY_S1 or MODALITY_S2; got {number}")
    return MODALITY_NAMES[number]
