"""Client of the retrieval service::

    from eoforge.client import RetrievalClient
    with RetrievalClient("127.0.0.1:8081") as client:
        hits = client.search(patch_id="S2A_MSIL2A_...", source="s1", target="s2", k=10)

Dependencies are gRPC and the generated messages, without torch or Lance. Calls have deadlines, are retried where a
retry is safe and useful, and return dataclasses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.api.retrieval.v1 import retrieval_pb2_grpc
from eoforge.client.base import RemoteError, ServiceClient
from eoforge.client.messages import (
    AcrossAnswer,
    Bands,
    Encoded,
    Hit,
    IndexInfo,
    Patch,
    across_answer,
    band_image,
    geotiff_image,
    hit,
    index_info,
    patch,
    search_request,
)
from eoforge.data.search_filter import SearchFilter
from eoforge.errors import UsageError

if TYPE_CHECKING:
    from eoforge.data.query_image import QueryImage

MAX_PAGE = 1000
"""Hits per page; servers allow at least as many by default."""


class RetrievalClient(ServiceClient):
    """Synchronous, thread-safe client of the retrieval service; arguments as for :class:`ServiceClient`."""

    def __init__(self, target: str, **connection: Any) -> None:
        super().__init__(target, **connection)
        self._stub: Any = retrieval_pb2_grpc.RetrievalServiceStub(self._channel)  # type: ignore[no-untyped-call]  # generated

    def search(
        self,
        *,
        patch_id: str | None = None,
        bands: Bands | None = None,
        geotiff: bytes | Sequence[bytes] | None = None,
        geotiff_bands: Sequence[Sequence[str]] | None = None,
        code: bytes | None = None,
        source: str | None = None,
        target: str,
        k: int = 10,
        filter: SearchFilter | None = None,
        thumbnails: bool = False,
        min_recall: float | None = None,
        codes: bool = False,
    ) -> list[Hit]:
        """Search for the ``k`` nearest patches to exactly one of ``patch_id``, ``bands``, ``geotiff`` and ``code``.

        Args:
            patch_id: Id of a patch of the archive.
            bands: Image as arrays by band name.
            geotiff: Image as the bytes of one or more GeoTIFFs of a patch's size; see :meth:`search_files` for others.
            geotiff_bands: Names of the bands of each GeoTIFF; by default its band descriptions name them.
            code: Packed code.
            source: Sensor of the query, ``s1`` or ``s2``; not needed with ``code``.
            target: Sensor of the hits.
            k: Number of hits, fetched in pages.
            filter: Conditions on the hits.
            thumbnails: Whether hits include a thumbnail.
            min_recall: Least recall@10 that an index of the engine ``ivf`` may have; 1 is exact. By default that of
                the server.
            codes: Whether hits include their codes.

        Raises:
            UsageError: The arguments contradict each other, or the server refuses them.
            RemoteError: The server answered with another error, or could not be reached.
        """
        image = None if geotiff is None else geotiff_image(geotiff, source, geotiff_bands)
        request = search_request(_one_of(patch_id, bands, image, code), source, target, filter)
        request.include_thumbnails, request.include_codes = thumbnails, codes
        if min_recall is not None:
            request.min_recall = min_recall
        hits: list[Hit] = []
        while True:
            request.page_size = min(k - len(hits), MAX_PAGE)
            response = self._call(self._stub.Search, request)
            hits.extend(hit(h) for h in response.hits)
            request.page_token = response.next_page_token
            if len(hits) >= k or not request.page_token:
                return hits

    def search_across(
        self,
        *,
        patch_id: str | None = None,
        bands: Bands | None = None,
        code: bytes | None = None,
        source: str | None = None,
        target: str,
        k: int = 10,
        filter: SearchFilter | None = None,
        thumbnails: bool = False,
        min_recall: float | None = None,
    ) -> AcrossAnswer:
        """Search in the archive of the service and in those of the owners that it asks; see :meth:`search`.

        Pictures and pixels of another owner's hit are asked at ``hit.owner_address``, by a client with the caller's own
        credentials for that owner. Credentials of one service are never sent to another by this class.

        Raises:
            UsageError: The arguments contradict each other, or the server refuses them.
            RemoteError: The server answered with another error, or could not be reached.
        """
        request = search_request(_one_of(patch_id, bands, None, code), source, target, filter)
        request.include_thumbnails, request.across, request.page_size = thumbnails, True, k
        if min_recall is not None:
            request.min_recall = min_recall
        return across_answer(self._call(self._stub.Search, request))

    def search_files(
        self,
        paths: str | Path | Sequence[str | Path],
        *,
        target: str,
        bands: Sequence[str] = (),
        source: str | None = None,
        k: int = 10,
        filter: SearchFilter | None = None,
        ask: Callable[..., list[Hit]] | None = None,
    ) -> tuple[QueryImage, list[list[Hit]]]:
        """Search for the patches that are most similar to an image in files, window by window.

        Args:
            paths: One GeoTIFF of several bands, GeoTIFFs of single bands, or one folder of them.
            target: Sensor of the hits.
            bands: Names of the bands, where neither the files nor their names say them.
            source: Sensor of the image; by default that of its bands.
            k: Number of hits per window.
            filter: Conditions on the hits.
            ask: Search of one window, by the arguments of :meth:`search`, which is the default.

        Returns:
            The image as it was read, with notes on what was cropped or resampled, and the hits of each window.

        Raises:
            EoforgeError: As :func:`eoforge.data.query_image.read_query_image`, or as :meth:`search`.
        """
        from eoforge.data.query_image import read_query_image  # local import: other calls need no GDAL

        given = [paths] if isinstance(paths, str | Path) else paths
        image = read_query_image([Path(path) for path in given], bands, source)
        return image, [
            (ask or self.search)(bands=window.bands, source=image.modality, target=target, k=k, filter=filter)
            for window in image.windows
        ]

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
        """Searches for many patches over one stream; yields ``(patch_id, hits or error)`` in order.

        Args:
            patch_ids: Ids of patches of the archive.
            source: Sensor of the queries.
            target: Sensor of the hits.
            k: Number of hits.
            filter: Conditions on the hits.
            timeout: Deadline of the whole stream in seconds; None for no deadline.

        Raises:
            RemoteError: The stream broke. It is not retried; results yielded before are valid.
        """

        def requests() -> Iterator[pb.SearchStreamRequest]:
            for patch_id in patch_ids:
                search = search_request(patch_id, source, target, filter)
                search.page_size = k
                yield pb.SearchStreamRequest(correlation_id=patch_id, search=search)

        for patch_id, answer in self._answers(self._stub.SearchStream, requests(), timeout):
            yield patch_id, answer if isinstance(answer, RemoteError) else [hit(h) for h in answer.hits]

    def encode(self, images: Sequence[Bands], modality: str) -> list[Encoded]:
        """Codes and embeddings of images given by bands, in order."""
        request = pb.EncodeRequest(images=[pb.Image(bands=band_image(i, modality)) for i in images])
        response = self._call(self._stub.Encode, request)
        return [Encoded(e.code, np.array(e.embedding, dtype=np.float32)) for e in response.encodings]

    def get_patch(
        self, patch_id: str, *, thumbnails: bool = False, pixels: bool = False, reference_map: bool = False
    ) -> Patch:
        """Patch with metadata and, on request, thumbnails, pixels on native grids and the land-cover map."""
        request = pb.GetPatchRequest(
            patch_id=patch_id,
            include_thumbnails=thumbnails,
            include_pixels=pixels,
            include_reference_map=reference_map,
        )
        return patch(self._call(self._stub.GetPatch, request))

    def indexes(self) -> list[IndexInfo]:
        """Indexes of the server."""
        response = self._call(self._stub.ListIndexes, pb.ListIndexesRequest())
        return [index_info(i) for i in response.indexes]


def _one_of(
    patch_id: str | None, bands: Bands | None, image: pb.GeoTiffImage | None, code: bytes | None
) -> str | bytes | Bands | pb.GeoTiffImage:
    given = [query for query in (patch_id, bands, image, code) if query is not None]
    if len(given) != 1:
        raise UsageError(f"give exactly one of patch_id, bands, geotiff and code; got {len(given)}")
    return given[0]
