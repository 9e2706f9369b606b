"""What a run would cost, before it begins."""

from __future__ import annotations

import math

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import NotFound, UsageError
from eoforge.federated.privacy import policy as privacy
from eoforge.federated.result import plain
from eoforge.federated.run import rounds
from eoforge.federated.run.spec import server_memory
from eoforge.federated.store.chunk_store import ChunkStore
from eoforge.federated.strategies.registry import make_strategy
from eoforge.federated.strategy import MODEL, SiloInfo, name_of, wire_bytes
from eoforge.storage.chunks import digest_of
from eoforge.storage.tensorfile import Specs, TensorSpec
from services.federation.coordinator import COMPUTE_THREADS, Coordinator

DEFAULT_BANDWIDTH = 12.5e6
REDUCE_BYTES_PER_SECOND = 400e6
"""Reading, adding and writing on one core; a cautious round figure."""


def estimate(coordinator: Coordinator, request: pb.EstimateRunRequest) -> pb.EstimateRunResponse:
    """The figures; blocks.

    Raises:
        UsageError: The strategy is unknown, no silo fits, or the model has no size.
    """
    spec = request.spec
    strategy = make_strategy(spec.strategy, plain(spec.strategy_options))
    model = _model(coordinator.models, spec.initial_model)
    silos = _silos(coordinator, request)
    state: dict[str, TensorSpec] = {name_of(MODEL, name): tensor for name, tensor in model.items()}
    state |= {name: start.spec for name, start in strategy.start(model, silos).items()}
    asked = len(silos)
    if spec.policy.selection in (pb.SELECTION_FRACTION, pb.SELECTION_WEIGHTED):
        wanted = max(spec.policy.min_silos, math.ceil(spec.policy.fraction * asked))
        asked = min(asked, math.ceil(wanted * (1 + spec.policy.over_selection)))
    # Silos of several modalities may differ: the mean is exact if all take part.
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
        server_memory=server_memory(threads, min(2 * asked, coordinator.settings.max_uploads)),
        store_bytes=(count + 1) * state_bytes + (coordinator.settings.retain_rounds + 1) * up,
        round_seconds=seconds,
        total_seconds=seconds * count,
        epsilon=privacy.epsilon(spec, count),
    )


def _model(objects: ChunkStore, manifest: pb.Manifest) -> Specs:
    if not manifest.length:
        raise UsageError("an estimate needs spec.initial_model: a stored model, or its length alone")
    try:
        return objects.open(digest_of(manifest)).specs
    except NotFound:
        return {"weights": TensorSpec((manifest.length // 4,))}


def _silos(coordinator: Coordinator, request: pb.EstimateRunRequest) -> tuple[SiloInfo, ...]:
    if request.silos:
        return tuple(SiloInfo(f"silo-{i:05d}", 1) for i in range(request.silos))
    members = rounds.members(request.spec, coordinator.silos.known.values())
    if not members:
        raise UsageError("no suitable silo is registered; say how many would take part (silos)")
    return tuple(SiloInfo(m.silo, m.samples, m.modality) for m in members)
