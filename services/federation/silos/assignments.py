"""Task messages for silos."""

from __future__ import annotations

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.federated.run.rounds.sealing import quorum
from eoforge.federated.run.rounds.tasks import NOTICES, TaskKey
from eoforge.nn.seeds import derive_seed
from services.federation.actor import RunActor
from services.federation.coordinator import Coordinator
from services.federation.silos import masking


async def assignment(coordinator: Coordinator, actor: RunActor, silo: str, key: TaskKey) -> pb.Task:
    """Task message with all that the silo needs for the task."""
    run = actor.run
    task = pb.Task(kind=key.kind, run_id=run.run_id, round=key.round, status=run.status, created_at=run.created_at)
    if key.kind in NOTICES:
        return task
    spec = run.spec
    task.data_version = next((m.data_version for m in run.round.members if m.silo == silo), "")
    for group, (chunks, digest) in (await actor.download_set(silo)).items():
        manifest = await coordinator.in_thread(chunks.manifest, digest)
        task.objects.append(pb.TaskObject(name=group, digest=digest, manifest=manifest))
    task.method, task.strategy = spec.method, spec.strategy
    task.config.CopyFrom(spec.config)
    task.strategy_options.CopyFrom(spec.strategy_options)
    task.privacy.CopyFrom(spec.privacy)
    task.data.CopyFrom(spec.data)
    task.seed = derive_seed(spec.seed, "silo", silo, key.round)
    task.selected = len(run.round.selected)
    task.quorum = quorum(spec)
    if spec.privacy.secure_aggregation:
        await coordinator.in_thread(masking.fill, task, run, silo, actor.files)
    for name, value in actor.scalars(silo).items():
        task.scalars[name] = value
    if spec.policy.HasField("deadline"):
        task.deadline.FromNanoseconds(run.round.opened_at.ToNanoseconds() + spec.policy.deadline.ToNanoseconds())
    return task
