"""Assembly of the federation service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.api.federation.v1 import federation_pb2_grpc
from eoforge.storage.memory import bound_arenas
from services._runtime.server import Server, Service
from services.federation.coordinator import Coordinator
from services.federation.identity import Identities
from services.federation.servicer import FederationServicer
from services.federation.settings import FederationSettings
from services.federation.silos.servicer import SiloServicer
from services.federation.uploads import Uploads
from services.process import serve

if TYPE_CHECKING:
    from kserve import Model

OPERATORS, SILOS = (pb.DESCRIPTOR.services_by_name[name].full_name for name in ("FederationService", "SiloService"))


def build(settings: FederationSettings) -> Server:
    """The server of ``settings``; must be called inside the event loop that will run it.

    Raises:
        UsageError: The settings contradict each other or expose the service.
    """
    settings.require_consistent()
    coordinator = Coordinator(settings)
    identities = Identities(settings.revoked_file, settings.tls_client_ca_file)
    uploads = Uploads(coordinator.in_thread, settings.max_uploads)

    def register(server: grpc.aio.Server) -> None:
        operators, silos = (
            FederationServicer(coordinator, identities, uploads),
            SiloServicer(coordinator, identities, uploads),
        )
        federation_pb2_grpc.add_FederationServiceServicer_to_server(operators, server)  # type: ignore[no-untyped-call]  # generated
        federation_pb2_grpc.add_SiloServiceServicer_to_server(silos, server)  # type: ignore[no-untyped-call]  # generated

    def models() -> Sequence[Model]:
        from services.federation.kserve import RunsModel  # brings KServe

        return [RunsModel(coordinator, identities)]

    whole = settings.max_message_bytes
    sizes = {
        **dict.fromkeys((f"/{OPERATORS}/{name}" for name in ("PutModel", "PrepareModel", "CreateRun")), whole),
        **dict.fromkeys((f"/{SILOS}/{name}" for name in ("PutUpdate", "PrepareUpdate", "Answer")), whole),
    }
    service = Service(
        name=OPERATORS,
        sizes=sizes,
        further=(SILOS,),
        reports=True,
        register=register,
        models=models,
        inference_on_demand=True,
        start=coordinator.start,
        stop=coordinator.stop,
        drain=coordinator.drain,
        certificate_port=settings.silo_port,
        admit=identities.admit if settings.revoked_file is not None else None,
    )
    server = Server(settings, service)
    coordinator.report = server.report
    return server


def run(settings: FederationSettings) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        UsageError: The settings contradict each other or expose the service, or a port is taken.
        StoreError: The store cannot be reached.
    """
    bound_arenas()  # many threads allocate chunks, and every arena would keep its peak
    serve("federation", settings, lambda: build(settings))
