"""What a silo has to do now, as a function of the run's state: so a task survives every restart."""

from __future__ import annotations

from typing import NamedTuple

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.federated.state import answered, ended


class Due(NamedTuple):
    """A task without its contents: what tells it from another."""

    kind: pb.TaskKind
    round: int


WORK = frozenset({pb.TASK_KIND_TRAIN, pb.TASK_KIND_EVALUATE, pb.TASK_KIND_KEYS, pb.TASK_KIND_SHARES})

TOLD = frozenset({pb.TASK_KIND_ABANDON, pb.TASK_KIND_END})
"""What a silo is told when nothing is due."""


def due(run: pb.Run, silo: str) -> Due | None:
    """The open task of ``silo`` in ``run``, or None."""
    if ended(run):
        return None
    round_ = run.round
    if silo in round_.dropped:
        return None
    if round_.phase == pb.PHASE_KEYS and silo in round_.selected and silo not in round_.mask_keys:
        return Due(pb.TASK_KIND_KEYS, round_.number)
    if round_.phase == pb.PHASE_SHARES and silo in round_.selected and silo not in round_.shared:
        return Due(pb.TASK_KIND_SHARES, round_.number)
    if round_.phase == pb.PHASE_OPEN and silo in round_.selected and silo not in answered(run):
        return Due(pb.TASK_KIND_TRAIN, round_.number)
    if (
        round_.phase == pb.PHASE_SEALED
        and run.spec.privacy.secure_aggregation
        and silo in round_.sealed
        and silo not in round_.unmasked
    ):
        return Due(pb.TASK_KIND_UNMASK, round_.number)
    evaluated = {e.silo for e in round_.evaluations}
    if round_.phase == pb.PHASE_EVALUATION and silo in round_.evaluators and silo not in evaluated:
        return Due(pb.TASK_KIND_EVALUATE, round_.number)
    return None


def follow_up(run: pb.Run, silo: str, last: Due | None) -> Due | None:
    """What to tell a silo that has nothing to do: that the run has ended, or that it may stop working on a task."""
    if ended(run):
        told = last is not None and last.kind == pb.TASK_KIND_END
        took_part = last is not None or silo in {m.silo for m in run.round.members}
        return Due(pb.TASK_KIND_END, run.round.number) if took_part and not told else None
    if last is None:
        return None
    done = run.round.number == last.round and silo in {
        *(a.silo for a in run.round.accepted),
        *(e.silo for e in run.round.evaluations),
        *run.round.mask_keys,
        *run.round.shared,
    }
    done = done or any(summary.number == last.round and silo in summary.silos for summary in run.history[-2:])
    return Due(pb.TASK_KIND_ABANDON, last.round) if last.kind in WORK and not done else None
