"""Assembly of the retrieval service."""

from __future__ import annotations

import grpc

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.api.retrieval.v1 import retrieval_pb2_grpc
from eoforge.data.bands import MODALITIES
from eoforge.index.cache.folder import IndexCache
from eoforge.index.snapshot import Opening
from eoforge.storage.addresses import TableRef
from services._runtime.fair import FairPool
from services._runtime.server import Server, Service
from services.process import serve
from services.retrieval.across import Across
from services.retrieval.batching import EncodeBatcher
from services.retrieval.kserve import EncodeModel, SearchModel
from services.retrieval.partners import Partners
from services.retrieval.servicer import RetrievalServicer
from services.retrieval.settings import RetrievalSettings
from services.retrieval.state import IndexHolder

SERVICE = pb.DESCRIPTOR.services_by_name["RetrievalService"].full_name


def build(settings: RetrievalSettings, holder: IndexHolder | None = None) -> Server:
    """Server of ``settings``; to be called in the event loop that runs it.

    Args:
        settings: All settings.
        holder: Index to serve instead of the index of the settings.

    Raises:
        UsageError: The settings contradict each other or expose the service.
    """
    settings.require_consistent()
    # Not None, with which a method takes a GPU if available: operators choose the device of a service.
    device = settings.device or "cpu"
    store = IndexCache(settings.cache_folder, settings.cache_bytes)
    how = Opening(device, store, settings.index_memory_bytes, settings.min_recall)
    index = holder or IndexHolder(TableRef.parse(settings.codes_uri), how, settings.poll_seconds)
    batcher = EncodeBatcher(settings.encode_batch, settings.encode_delay_seconds, settings.encode_queue)
    pool = FairPool(settings.search_workers, settings.search_queue, "searches")
    # Threads of their own: a store that hangs stops no search that needs none.
    reads = FairPool(settings.read_workers, settings.search_queue, "reads", settings.read_seconds)
    across, partners = Across(settings, pool), Partners(settings.owner, settings.partners, pool)
    servicer = RetrievalServicer(settings, index, batcher, pool, reads, across, partners)

    async def answer() -> None:
        for model in models:
            model.ready = True
        await server.report(True)

    async def start() -> None:
        index.on_first = answer
        await index.start()
        batcher.start()

    async def stop() -> None:
        await index.stop()
        await batcher.stop()
        await across.stop()
        pool.stop()
        reads.stop()

    models: list[EncodeModel | SearchModel] = [
        *(EncodeModel(settings, modality, index, batcher, pool, partners) for modality in MODALITIES),
        *(SearchModel(settings, modality, index, pool, across, partners) for modality in MODALITIES),
    ]

    def register(server: grpc.aio.Server) -> None:
        retrieval_pb2_grpc.add_RetrievalServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]  # generated

    service = Service(
        name=SERVICE,
        register=register,
        reports=True,
        models=lambda: models,
        start=start,
        stop=stop,
        sizes={
            f"/{SERVICE}/Search": settings.max_image_bytes + settings.max_plain_bytes,
            f"/{SERVICE}/SearchStream": settings.max_image_bytes + settings.max_plain_bytes,
            f"/{SERVICE}/Encode": settings.max_message_bytes,
        },
    )
    server = Server(settings, service)
    return server


def run(settings: RetrievalSettings) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        UsageError: The settings contradict each other or expose the service, or a port is taken.
        DataRefused: The codes are damaged, or do not fit their bundle or patches.
    """
    serve("retrieval", settings, lambda: build(settings))
