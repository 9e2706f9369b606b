"""Estimate of a run's cost: bytes, seconds, memory and epsilon."""

from __future__ import annotations

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import LimitExceeded, NotFound, UsageError
from eoforge.federated.privacy import policy as privacy
from eoforge.federated.result import plain
from eoforge.federated.run.numbers import check_storable
from eoforge.federated.run.rounds import opening
from eoforge.federated.run.spec import MAX_ROUNDS
from eoforge.federated.store.chunk_store import ChunkStore, StoredFile
from eoforge.federated.strategies.registry import make_strategy
from eoforge.federated.strategy import MODEL, SiloInfo, name_of, wire_bytes
from eoforge.storage.tensorfile import CHUNK_BYTES, Specs, TensorSpec
from services.federation.coordinator import COMPUTE_THREADS, Coordinator

DEFAULT_BANDWIDTH = 12.5e6
REDUCE_BYTES_PER_SECOND = 400e6
"""Throughput of one core that reads, adds and writes; a cautious round figure."""


def estimate(coordinator: Coordinator, request: pb.EstimateRunRequest) -> pb.EstimateRunResponse:
    """Cost of a run; blocks.

    Raises:
        LimitExceeded: The run is larger than runs of this service.
        UsageError: The strategy is unknown, no silo is eligible, the model has no size, or a number is out of range.
    """
    spec = request.spec
    check_storable(request, "request")
    if request.bandwidth < 0 or request.train_seconds < 0:
        raise UsageError(
            "bandwidth and train_seconds must be 0 or more; "
            f"got {request.bandwidth:g} bytes a second and {request.train_seconds:g} s"
        )
    limits = coordinator.settings
    for value, limit, what in (
        (request.silos, limits.max_silos, "silos"),
        (spec.initial_model.length, limits.max_model_bytes, "bytes of the initial model"),
        (spec.policy.rounds, MAX_ROUNDS, "rounds"),
    ):
        if value > limit:
            raise LimitExceeded(f"an estimate is for at most {limit} {what}; got {value}")
    strategy = make_strategy(spec.strategy, plain(spec.strategy_options))
    model = _model(coordinator.models, spec.initial_model)
    silos = _silos(coordinator, request)
    state: dict[str, TensorSpec] = {name_of(MODEL, name): tensor for name, tensor in model.items()}
    state |= {name: start.spec for name, start in strategy.start(model, silos).items()}
    asked, _ = opening.selection_size(spec.policy, len(silos))
    # Silos with different modalities differ in bytes: the mean is exact if all take part.
    wire = [wire_bytes(strategy, silo, state) for silo in silos]
    masked = 2 if spec.privacy.secure_aggregation else 1
    down = sum(d for d, _ in wire) * asked // len(silos)
    up = sum(u for _, u in wire) * asked // len(silos) * masked
    state_bytes = sum(tensor.nbytes for tensor in state.values())
    slowest = max(d + u * masked for d, u in wire)
    bandwidth = request.bandwidth or DEFAULT_BANDWIDTH
    seconds = slowest / bandwidth + request.train_seconds + (up + 2 * state_bytes) / REDUCE_BYTES_PER_SECOND
    count = spec.policy.rounds
    threads = COMPUTE_THREADS + coordinator.settings.workers
    return pb.EstimateRunResponse(
        silos=asked,
        bytes_down=down,
        bytes_up=up,
        bytes_total=(down + up) * count,
        server_memory=_server_memory(threads, min(2 * asked, coordinator.settings.max_uploads)),
        store_bytes=(count + 1) * state_bytes + (coordinator.settings.retain_rounds + 1) * up,
        round_seconds=seconds,
        total_seconds=seconds * count,
        epsilon=privacy.epsilon(spec, count),
    )


def _model(chunks: ChunkStore, manifest: pb.Manifest) -> Specs:
    if not manifest.length:
        raise UsageError("an estimate needs spec.initial_model: a stored model, or its length alone")
    try:
        return StoredFile(chunks, manifest).specs
    except NotFound:
        return {"weights": TensorSpec((manifest.length // 4,))}


def _silos(coordinator: Coordinator, request: pb.EstimateRunRequest) -> tuple[SiloInfo, ...]:
    if request.silos:
        return tuple(SiloInfo(f"silo-{i:05d}", 1) for i in range(request.silos))
    members = opening.members(request.spec, coordinator.silos.known.values())
    if not members:
        raise UsageError("no eligible silo is registered; give the number of silos that would take part (silos)")
    return opening.silo_infos(members)


def _server_memory(threads: int, uploads: int) -> int:
    """Upper bound of the coordinator's memory beside its code, in bytes, independent of model size and silo count.

    A computing thread holds an output chunk, its float64 sum, a product and two input chunks; an upload holds the
    message, its bytes and gRPC's copy.
    """
    return threads * 8 * CHUNK_BYTES + uploads * 4 * CHUNK_BYTES
