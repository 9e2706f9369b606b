"""Verdicts on answers of silos: which answers count, which are repeated, and which are too late."""

from __future__ import annotations

from collections.abc import Iterable

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.federated.run.rounds.tasks import RoundView, TaskKey
from eoforge.federated.run.state import ended

TOO_LATE = "the round went on without it"
ANOTHER = "this round has another update of yours already"
ANOTHER_ANSWER = "this round has another answer of yours already; the first one stays"


def answer(verdict: pb.Verdict, reason: str = "") -> pb.AnswerResponse:
    """Verdict and reason as a response."""
    return pb.AnswerResponse(verdict=verdict, reason=reason)


def counts_already(run: pb.Run, silo: str, number: int, digest: str) -> bool:
    """Whether this update of a round counts already: then only the acknowledgement was lost."""
    counted = counted_digest(run, silo, number)
    return counted is not None and digest.startswith(counted)


def known_verdict(run: pb.Run, silo: str, number: int, digest: str, retained: int) -> pb.AnswerResponse | None:
    """Verdict on an update that needs no check of its content, or None.

    Args:
        run: State of the run.
        silo: Sender.
        number: Round that the update was trained in.
        digest: Digest of its manifest.
        retained: Number of reduced rounds whose updates are kept.
    """
    if counts_already(run, silo, number, digest):
        return answer(pb.VERDICT_ACCEPTED)
    if counted_digest(run, silo, number) is not None:
        return answer(pb.VERDICT_DROPPED, ANOTHER)
    late = too_late(run, silo, number, retained)
    if late is not None:
        return answer(pb.VERDICT_DROPPED, late)
    for refused in run.round.refused:
        if (refused.silo, refused.round, refused.digest) == (silo, number, digest):
            return answer(pb.VERDICT_REFUSED, refused.reason)
    return None


def may_count(run: pb.Run, silo: str, number: int, retained: int) -> bool:
    """Whether an update may be recorded now; arguments as for :func:`known_verdict`."""
    recorded = run.round.accepted if run.round.phase == pb.PHASE_OPEN else run.waiting
    return not _has_one(recorded, silo) and too_late(run, silo, number, retained) is None


def verdict_after(
    run: pb.Run, silo: str, number: int, digest: str, refusal: str | None, written: bool
) -> pb.AnswerResponse:
    """Verdict on an update whose content was checked.

    Args:
        run: State of the run after the event.
        silo: Sender.
        number: Round that the update was trained in.
        digest: Digest of its manifest.
        refusal: Reason of its refusal, or None for a valid update.
        written: Whether the event was written, which :func:`may_count` decides.
    """
    if not written:
        if refusal is None and counts_already(run, silo, number, digest):  # sent twice at the same time
            return answer(pb.VERDICT_ACCEPTED)
        return answer(pb.VERDICT_DROPPED, ANOTHER if counted_digest(run, silo, number) is not None else TOO_LATE)
    if refusal is not None:
        return answer(pb.VERDICT_REFUSED, refusal)
    in_time = number == run.round.number and any(a.silo == silo and a.round == number for a in run.round.accepted)
    return answer(pb.VERDICT_ACCEPTED if in_time else pb.VERDICT_FOLDED)


def closed_task_verdict(run: pb.Run, silo: str, task: TaskKey, same: bool = True) -> pb.AnswerResponse:
    """Verdict on an answer to a task that is not open, other than training: repeated, different, or too late.

    Args:
        run: State of the run.
        silo: Sender.
        task: Task that was answered.
        same: Whether the answer equals the stored one, if one is stored.
    """
    if RoundView(run).has_answered(silo, task):
        return answer(pb.VERDICT_ACCEPTED) if same else answer(pb.VERDICT_DROPPED, ANOTHER_ANSWER)
    return answer(pb.VERDICT_DROPPED, TOO_LATE)


def too_late(run: pb.Run, silo: str, number: int, retained: int) -> str | None:
    """Reason why an update of round ``number`` cannot count, or None; arguments as for :func:`known_verdict`."""
    round_, policy = run.round, run.spec.policy
    is_open = round_.phase == pb.PHASE_OPEN
    if number > round_.number or number == 0:
        return f"round {number} has not begun"
    if ended(run):
        return "the run has ended"
    if number == round_.number and is_open:
        return None
    if policy.late != pb.LATE_POLICY_FOLD:
        return f"round {number} was sealed without it"
    # A late update counts in the open round, or in the next one while none is open.
    counts_in = round_.number if is_open else round_.number + 1
    if counts_in > policy.rounds:
        return f"round {round_.number} was the last one"
    if counts_in - number > retained:
        return f"round {number} is too long ago to fold its updates in"
    if _has_one(round_.accepted if is_open else run.waiting, silo):
        return f"round {counts_in} has an update of this silo already, and takes no late one"
    if not _missed(run, silo, number):
        return f"round {number} did not ask {silo}, or has its update already"
    return None


def _missed(run: pb.Run, silo: str, number: int) -> bool:
    """Whether a silo was asked in a round that was sealed without its update."""
    for summary in run.history:
        if summary.number == number:
            return silo in summary.stragglers
    return number == run.round.number and silo in run.round.selected and silo not in run.round.sealed


def _has_one(accepted: Iterable[pb.Accepted], silo: str) -> bool:
    return any(a.silo == silo for a in accepted)


def counted_digest(run: pb.Run, silo: str, number: int) -> str | None:
    """Digest of the update that counts already, or None for none.

    Of closed rounds the first digits are known; none of them in histories that were written before they were kept.
    """
    for accepted in (*run.round.accepted, *run.waiting):
        if (accepted.silo, accepted.round) == (silo, number):
            return accepted.digest
    for summary in run.history:
        if silo in summary.silos and summary.late.get(silo, summary.number) == number:
            return summary.digests[list(summary.silos).index(silo)] if summary.digests else ""
    return None
