"""Main program of a process with the services' runtime whose calls take a moment; see ``test_rolling_restart.py``."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.api.retrieval.v1 import retrieval_pb2_grpc
from eoforge.logs import configure_logs
from services._runtime.server import Server, Service
from services._runtime.settings import RuntimeSettings

CALL_SECONDS = 0.05


class Slow(retrieval_pb2_grpc.RetrievalServiceServicer):
    """GetPatch takes a moment."""

    async def GetPatch(self, request: pb.GetPatchRequest, context: Any) -> pb.GetPatchResponse:
        await asyncio.sleep(CALL_SECONDS)
        return pb.GetPatchResponse(patch=pb.PatchMetadata(patch_id=request.patch_id))


async def nothing() -> None:
    return None


async def main() -> None:
    service = Service(
        name="eoforge.api.retrieval.v1.RetrievalService",
        register=lambda server: retrieval_pb2_grpc.add_RetrievalServiceServicer_to_server(Slow(), server),  # type: ignore[no-untyped-call]  # generated
        models=list,
        start=nothing,
        stop=nothing,
        inference_on_demand=True,  # without KServe, which takes long to load
    )
    await Server(RuntimeSettings(), service).run()


if __name__ == "__main__":
    configure_logs(as_json=True, level=logging.INFO)
    asyncio.run(main())
