"""Tasks of silos, derived from the run's state: an open task survives every restart of the coordinator."""

from __future__ import annotations

from typing import NamedTuple

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.federated.run.state import answered, ended


class TaskKey(NamedTuple):
    """Kind and round of a task: its identity within a run."""

    kind: pb.TaskKind
    round: int


CANCELLABLE = frozenset({pb.TASK_KIND_TRAIN, pb.TASK_KIND_EVALUATE, pb.TASK_KIND_KEYS, pb.TASK_KIND_SHARES})

NOTICES = frozenset({pb.TASK_KIND_ABANDON, pb.TASK_KIND_END})
"""Kinds that ask for no answer."""


class RoundView:
    """Sets of silos by what they did in the current round, built once per event for any number of silos.

    Args:
        run: State of the run.

    Attributes:
        sequence: Number of the event after which the view was built.
        number: Number of the round.
    """

    def __init__(self, run: pb.Run) -> None:
        round_ = run.round
        self.sequence, self.number = run.sequence, round_.number
        self._phase, self._ended = round_.phase, ended(run)
        self._folds = run.spec.policy.late == pb.LATE_POLICY_FOLD
        self._dropped, self._members = frozenset(round_.dropped), frozenset(m.silo for m in round_.members)
        self._answered, selected = frozenset(answered(run)), frozenset(round_.selected)
        keyed, shared = frozenset(round_.mask_keys), frozenset(round_.shared)
        evaluated = frozenset(e.silo for e in round_.evaluations)
        accepted = frozenset(a.silo for a in round_.accepted if a.round == round_.number)
        self._completed = accepted | evaluated | keyed | shared
        self._sealed_in = {summary.number: frozenset(summary.silos) for summary in run.history[-2:]}
        self._phases = {
            pb.PHASE_KEYS: (pb.TASK_KIND_KEYS, selected, keyed),
            pb.PHASE_SHARES: (pb.TASK_KIND_SHARES, selected, shared),
            pb.PHASE_OPEN: (pb.TASK_KIND_TRAIN, selected, self._answered),
            pb.PHASE_EVALUATION: (pb.TASK_KIND_EVALUATE, frozenset(round_.evaluators), evaluated),
        }
        if run.spec.privacy.secure_aggregation:
            unmasking = (pb.TASK_KIND_UNMASK, frozenset(round_.sealed), frozenset(round_.unmasked))
            self._phases[pb.PHASE_SEALED] = unmasking

    def open_task(self, silo: str) -> TaskKey | None:
        """Task that a silo has to answer now, or None."""
        if self._ended or silo in self._dropped or self._phase not in self._phases:
            return None
        kind, asked, done = self._phases[self._phase]
        return TaskKey(kind, self.number) if silo in asked and silo not in done else None

    def has_answered(self, silo: str, task: TaskKey) -> bool:
        """Whether the answer of a silo to a task of the current round is stored."""
        return task.round == self.number and any(
            kind == task.kind and silo in done for kind, _, done in self._phases.values()
        )

    def next_task(self, silo: str, last: TaskKey | None, until_end: bool = False) -> TaskKey | None:
        """Task to send to a silo now, or None: open work, a cancellation, or the end of the run.

        Args:
            silo: Id of the silo.
            last: Last task of this run that was sent to it.
            until_end: Whether to report the end of the run even to a silo that took no part.
        """
        if self._ended:
            reported = last is not None and last.kind == pb.TASK_KIND_END
            concerned = until_end or last is not None or silo in self._members
            return TaskKey(pb.TASK_KIND_END, self.number) if concerned and not reported else None
        task = self.open_task(silo)
        if task is not None and task == last:
            return None
        return self._cancellation(silo, last) or task

    def _cancellation(self, silo: str, last: TaskKey | None) -> TaskKey | None:
        if last is None or last.kind not in CANCELLABLE:
            return None
        current = self.number == last.round
        if self._folds and last.kind == pb.TASK_KIND_TRAIN and not (current and silo in self._answered):
            return None  # a late update still counts, unless an even later update of the silo counts in this round
        done = silo in self._sealed_in.get(last.round, frozenset()) or (current and silo in self._completed)
        return None if done else TaskKey(pb.TASK_KIND_ABANDON, last.round)


def open_task(run: pb.Run, silo: str) -> TaskKey | None:
    """Task that a silo has to answer now, or None."""
    return RoundView(run).open_task(silo)
