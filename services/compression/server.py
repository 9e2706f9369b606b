"""Assembly of the compression service."""

from __future__ import annotations

import asyncio

import grpc

from eoforge.api.compression.v1 import compression_pb2 as pb
from eoforge.api.compression.v1 import compression_pb2_grpc
from eoforge.data.bands import MODALITIES
from services._runtime.server import Server, Service
from services.compression.kserve import CompressModel, DecompressModel, HashModel
from services.compression.servicer import CompressionServicer
from services.compression.settings import CompressionSettings
from services.compression.state import Codecs, load
from services.compression.work import Work
from services.process import serve
from services.waiting import Waiting

SERVICE = pb.DESCRIPTOR.services_by_name["CompressionService"].full_name


def build(settings: CompressionSettings, codecs: Codecs | None = None) -> Server:
    """Server of ``settings``; to be called in the event loop that runs it.

    Args:
        settings: All settings.
        codecs: Codecs to serve instead of those of the settings.

    Raises:
        UsageError: The settings contradict each other or expose the service.
    """
    settings.require_consistent()
    work = Work(settings, codecs)
    servicer = CompressionServicer(work, settings.stream_window)

    async def take_up() -> None:
        work.use(await asyncio.to_thread(load, settings) if codecs is None else codecs)
        for model in models:
            model.ready = True
        await server.report(True)

    waiting = Waiting(take_up, "codec", settings.bundle_uris)

    async def start() -> None:
        work.start()
        await waiting.start()

    async def stop() -> None:
        await waiting.stop()
        await work.stop()

    models = [
        *(CompressModel(settings, modality, work) for modality in MODALITIES),
        *(DecompressModel(settings, modality, work) for modality in MODALITIES),
        *(HashModel(settings, modality, work) for modality in MODALITIES),
    ]

    def register(server: grpc.aio.Server) -> None:
        compression_pb2_grpc.add_CompressionServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]  # generated

    rasters = dict.fromkeys(("Compress", "CompressStream"), settings.max_raster_bytes)
    streams = dict.fromkeys(
        ("Decompress", "DecompressStream", "HashStream", "Inspect", "Transcode"), settings.max_stream_bytes
    )
    sizes = {f"/{SERVICE}/{name}": size + settings.max_plain_bytes for name, size in (rasters | streams).items()}
    service = Service(
        name=SERVICE, register=register, reports=True, models=lambda: models, start=start, stop=stop, sizes=sizes
    )
    server = Server(settings, service)
    return server


def run(settings: CompressionSettings) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        UsageError: The settings contradict each other or expose the service, or a port is taken.
        BundleError: A bundle is damaged, or holds no codec.
    """
    settings.require_consistent()
    serve("compression", settings, lambda: build(settings))
