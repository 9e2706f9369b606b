"""What a silo that has something to do is told."""

from __future__ import annotations

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.nn.seeds import derive_seed
from services.federation.actor import RunActor
from services.federation.coordinator import Coordinator
from services.federation.silos import masking
from services.federation.tasks import TOLD, Due


async def assignment(coordinator: Coordinator, actor: RunActor, silo: str, now: Due) -> pb.Task:
    """The task that ``now`` names, with all that the silo needs for it."""
    run = actor.run
    task = pb.Task(kind=now.kind, run_id=run.run_id, round=now.round, status=run.status, created_at=run.created_at)
    if now.kind in TOLD:
        return task
    spec = run.spec
    for group, (objects, digest) in (await actor.offer(silo)).items():
        manifest = await coordinator.in_thread(objects.manifest, digest)
        task.objects.append(pb.TaskObject(name=group, digest=digest, manifest=manifest))
    task.method, task.strategy = spec.method, spec.strategy
    task.config.CopyFrom(spec.config)
    task.strategy_options.CopyFrom(spec.strategy_options)
    task.privacy.CopyFrom(spec.privacy)
    task.data.CopyFrom(spec.data)
    task.seed = derive_seed(spec.seed, "silo", silo, now.round)
    task.selected = len(run.round.selected)
    task.quorum = spec.policy.quorum or spec.policy.min_silos
    if spec.privacy.secure_aggregation:
        await coordinator.in_thread(masking.fill, task, run, silo, actor.files)
    for name, value in actor.scalars(silo).items():
        task.scalars[name] = value
    if spec.policy.HasField("deadline"):
        task.deadline.FromNanoseconds(run.round.opened_at.ToNanoseconds() + spec.policy.deadline.ToNanoseconds())
    return task
