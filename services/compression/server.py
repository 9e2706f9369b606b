"""Assembly of the compression service."""

from __future__ import annotations

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

SERVICE = pb.DESCRIPTOR.services_by_name["CompressionService"].full_name


def build(settings: CompressionSettings, codecs: Codecs) -> Server:
    """Server of ``settings``; to be called in the event loop that runs it.

    Args:
        settings: All settings.
        codecs: Codecs from :func:`services.compression.state.load`.

    Raises:
        UsageError: The settings contradict each other or expose the service.
    """
    settings.require_consistent()
    work = Work(settings, codecs.coder)
    servicer = CompressionServicer(work, codecs, settings.stream_window)

    async def start() -> None:
        work.start()

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
    service = Service(name=SERVICE, register=register, models=lambda: models, start=start, stop=work.stop, sizes=sizes)
    return Server(settings, service)


def run(settings: CompressionSettings) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        UsageError: The settings contradict each other or expose the service, or a port is taken.
        NotFound: A bundle does not exist.
        BundleError: A bundle is damaged, or holds no codec.
    """
    settings.require_consistent()
    serve("compression", settings, lambda: build(settings, load(settings)))
