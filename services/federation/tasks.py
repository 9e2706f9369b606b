"""What a silo has to do now, as a function of the run's state: so a task survives every restart."""

from __future__ import annotations

from typing import NamedTuple

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.federated.run.state import answered, ended


class Due(NamedTuple):
    """A task without its contents: what tells it from another."""

    kind: pb.TaskKind
    round: int


WORK = frozenset({pb.TASK_KIND_TRAIN, pb.TASK_KIND_EVALUATE, pb.TASK_KIND_KEYS, pb.TASK_KIND_SHARES})

TOLD = frozenset({pb.TASK_KIND_ABANDON, pb.TASK_KIND_END})
"""What a silo is told when nothing is due."""


class RoundView:
    """Who did what in a run's open round: sets that are built once an event, for however many silos are told of it.

    Args:
        run: The run.

    Attributes:
        sequence: The event that this is the standing after.
    """

    def __init__(self, run: pb.Run) -> None:
        round_ = run.round
        self.sequence, self.number, self.phase = run.sequence, round_.number, round_.phase
        self.ended, self.masks = ended(run), run.spec.privacy.secure_aggregation
        self.folds = run.spec.policy.late == pb.LATE_POLICY_FOLD
        self.selected, self.dropped = frozenset(round_.selected), frozenset(round_.dropped)
        self.answered = frozenset(answered(run))
        self.accepted = frozenset(a.silo for a in round_.accepted if a.round == round_.number)
        self.keyed, self.shared = frozenset(round_.mask_keys), frozenset(round_.shared)
        self.sealed, self.unmasked = frozenset(round_.sealed), frozenset(round_.unmasked)
        self.evaluators = frozenset(round_.evaluators)
        self.evaluated = frozenset(e.silo for e in round_.evaluations)
        self.members = frozenset(m.silo for m in round_.members)
        self.counted = {summary.number: frozenset(summary.silos) for summary in run.history[-2:]}

    def due(self, silo: str) -> Due | None:
        """The open task of ``silo``, or None."""
        if self.ended or silo in self.dropped:
            return None
        asked = {
            pb.PHASE_KEYS: (pb.TASK_KIND_KEYS, self.selected, self.keyed),
            pb.PHASE_SHARES: (pb.TASK_KIND_SHARES, self.selected, self.shared),
            pb.PHASE_OPEN: (pb.TASK_KIND_TRAIN, self.selected, self.answered),
            pb.PHASE_EVALUATION: (pb.TASK_KIND_EVALUATE, self.evaluators, self.evaluated),
        }
        if self.masks:
            asked[pb.PHASE_SEALED] = (pb.TASK_KIND_UNMASK, self.sealed, self.unmasked)
        if self.phase not in asked:
            return None
        kind, wanted, done = asked[self.phase]
        return Due(kind, self.number) if silo in wanted and silo not in done else None

    def next_for(self, silo: str, last: Due | None, asks: bool = False) -> Due | None:
        """What a silo is told now, or None: its task; that it may stop working on one; that the run has ended.

        Args:
            silo: It.
            last: What it was told last of this run.
            asks: Whether it wants to hear of the run's end, whether it took part or not.
        """
        if self.ended:
            told = last is not None and last.kind == pb.TASK_KIND_END
            return None if told or not (asks or last is not None or silo in self.members) else self._end()
        now = self.due(silo)
        if now is not None and now == last:
            return None
        return self._withdrawn(silo, last) or now

    def _withdrawn(self, silo: str, last: Due | None) -> Due | None:
        if last is None or last.kind not in WORK:
            return None
        done = silo in self.counted.get(last.round, frozenset()) or (
            self.number == last.round
            and any(silo in those for those in (self.accepted, self.evaluated, self.keyed, self.shared))
        )
        if self.folds and last.kind == pb.TASK_KIND_TRAIN and not (self.number == last.round and silo in self.answered):
            return None  # late it still counts, unless an even later update of the silo stands for it in this round
        return None if done else Due(pb.TASK_KIND_ABANDON, last.round)

    def _end(self) -> Due:
        return Due(pb.TASK_KIND_END, self.number)


def due(run: pb.Run, silo: str) -> Due | None:
    """The open task of ``silo`` in ``run``, or None."""
    return RoundView(run).due(silo)
