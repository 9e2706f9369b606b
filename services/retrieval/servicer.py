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
from eoforge.errors import LimitExceeded, NotFound, UsageError
from eoforge.index.search import MAX_K
from services._runtime.errors import argument
from services._runtime.fair import FairPool
from services._runtime.ordered import answers_of, deadline_of
from services.retrieval import answers
from services.retrieval.batching import EncodeBatcher
from services.retrieval.images import Raster, from_bands, from_geotiff
from services.retrieval.paging import page_of, token_for
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
    ) -> None:
        self._settings, self._holder, self._batcher, self._pool = settings, holder, batcher, pool
        self._reads = reads

    async def Search(self, request: pb.SearchRequest, context: Context[Any, Any]) -> pb.SearchResponse:
        """See the proto."""
        return await self._search(request, deadline_of(context))

    async def SearchStream(
        self, requests: AsyncIterator[pb.SearchStreamRequest], context: Context[Any, Any]
    ) -> AsyncIterator[pb.SearchStreamResponse]:
        """See the proto. Searches run concurrently within a window, so that their images share encoder batches."""
        deadline = deadline_of(context)

        def search(given: pb.SearchStreamRequest) -> Awaitable[pb.SearchResponse]:
            return self._search(given.search, deadline)

        found = answers_of(requests, pb.SearchStreamResponse, pb.Error, search, STREAM_WINDOW)
        async with aclosing(found) as responses:
            async for response in responses:
                yield response

    async def Encode(self, request: pb.EncodeRequest, context: Context[Any, Any]) -> pb.EncodeResponse:
        """See the proto."""
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
        return await self._reads.run(answers.patch_response, self._holder.current, request)

    async def ListIndexes(self, request: pb.ListIndexesRequest, context: Context[Any, Any]) -> pb.ListIndexesResponse:
        """See the proto. The list has one page, so no page token is valid."""
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
        )
        return pb.ListIndexesResponse(indexes=[index])

    async def _search(self, request: pb.SearchRequest, deadline: float | None) -> pb.SearchResponse:
        served = self._holder.current
        version = served.snapshot.version
        with argument("target_modality"):
            target = _modality(request.target_modality, "target_modality")
        if target not in served.snapshot.modalities:
            raise NotFound(f"the index holds no codes of {target}")
        offset, size = page_of(request, version, self._settings.max_page_size)
        if request.include_thumbnails and size > self._settings.max_thumbnails:
            raise LimitExceeded(
                f"a page with thumbnails may hold at most {self._settings.max_thumbnails} hits; got page_size {size}"
            )
        with argument("filter"):
            search_filter = answers.search_filter(request.filter) if request.HasField("filter") else None
        code = await self._query_code(request, served, deadline)
        response = await self._pool.run(
            answers.nearest, served, code, target, search_filter, offset, size, request.include_codes
        )
        if request.include_thumbnails and response.hits:
            await self._reads.run(answers.add_thumbnails, served, response.hits, target)
        end = offset + size
        if response.candidates > end and end < MAX_K:
            response.next_page_token = token_for(request, version, end)
        return response

    async def _query_code(self, request: pb.SearchRequest, served: Served, deadline: float | None) -> Code:
        kind = request.WhichOneof("query")
        if kind == "patch_id":
            if len(request.patch_id) > MAX_PATCH_ID_CHARS:
                with argument("patch_id"):
                    raise LimitExceeded(f"patch_id may have at most {MAX_PATCH_ID_CHARS} characters")
            with argument("query_modality"):
                modality = _modality(request.query_modality, "query_modality")
            row = answers.row_of(served.snapshot, request.patch_id, modality)
            return served.snapshot.indexes[modality].codes[row]
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


def _modality(number: int, what: str) -> str:
    if number not in MODALITY_NAMES:
        raise UsageError(f"{what} must be MODALITY_S1 or MODALITY_S2; got {number}")
    return MODALITY_NAMES[number]
