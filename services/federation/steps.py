"""What a run does next: decisions only, functions of the run's state, of the silos that are there, and of the time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.federated.privacy import policy as privacy
from eoforge.federated.run import rounds
from eoforge.federated.run.state import ended

There = Callable[[], tuple[Sequence[pb.Member], Sequence[pb.Member]]]
"""All silos of the run, and those of them that are connected."""


@dataclass(frozen=True)
class Step:
    """At most one of these; none of them means waiting for something to happen.

    Attributes:
        event: An event to write, as the one keyword of :class:`RunEvent`.
        work: Something that takes long: it runs beside whatever else happens to the run.
        failure: Why the run cannot go on.
        wake_in: While waiting: seconds after which time alone may change the answer.
    """

    event: dict[str, Any] | None = None
    work: Literal["reduce", "finish", "close"] | None = None
    failure: str | None = None
    wake_in: float | None = None


WAIT = Step()


def next_step(run: pb.Run, there: There, closed: bool, now: float) -> Step:
    """The next step of a run.

    Args:
        run: Its state.
        there: Asked only where silos are chosen.
        closed: Whether the silos of the first round are all that ever take part.
        now: Seconds since the epoch.
    """
    if ended(run):
        return WAIT
    phase = run.round.phase
    if phase == pb.PHASE_UNSPECIFIED:
        return _between_rounds(run, there, closed)
    if phase == pb.PHASE_OPEN:
        return _collecting(run, there, closed, now)
    if phase == pb.PHASE_SEALED:
        return _sealed(run)
    if phase == pb.PHASE_EVALUATION:
        return _evaluating(run, now)
    return _agreeing(run, now)


def seconds_open(run: pb.Run, now: float) -> float:
    """Seconds since the round, or its phase of agreement, began."""
    return now - run.round.opened_at.ToNanoseconds() / 1e9


def reduced_at(run: pb.Run) -> float:
    """When the round's model was there, in seconds since the epoch."""
    return run.round.opened_at.ToNanoseconds() / 1e9 + run.round.seconds["collect"] + run.round.seconds["reduce"]


def summary(run: pb.Run, evaluate_seconds: float) -> pb.RoundSummary:
    """What remains of the round that is over."""
    round_ = run.round
    counted = [a for a in round_.accepted if a.silo in round_.sealed]
    return pb.RoundSummary(
        number=round_.number,
        model=run.objects["model"],
        updates=len(counted),
        refused=len(round_.refused),
        stragglers=sorted(set(round_.selected) - set(round_.sealed)),
        training=rounds.averaged((a.samples, dict(a.metrics)) for a in counted),
        evaluation=rounds.averaged((e.samples, dict(e.metrics)) for e in round_.evaluations),
        bytes_up=sum(a.size for a in counted),
        seconds={**dict(round_.seconds), "evaluate": evaluate_seconds if round_.evaluators else 0.0},
        epsilon=run.epsilon,
        silos=round_.sealed,
        late={a.silo: a.round for a in counted if a.round != round_.number},
    )


def _between_rounds(run: pb.Run, there: There, closed: bool) -> Step:
    spec = run.spec
    reached = bool(run.history) and rounds.target_reached(spec, dict(run.history[-1].evaluation))
    if run.round.number >= spec.policy.rounds or reached or privacy.exhausted(run):
        return Step(work="finish")
    if run.status == pb.RUN_STATUS_PAUSED:
        return WAIT
    number = run.round.number + 1
    members, connected = _silos(run, there, closed)
    choice = rounds.choose(spec, number, connected)
    if choice is None:
        return WAIT
    opened = pb.RoundOpened(
        number=number,
        selected=choice.silos,
        wanted=choice.wanted,
        members=members,
        phase=pb.PHASE_KEYS if spec.privacy.secure_aggregation else pb.PHASE_OPEN,
    )
    return Step(event={"round_opened": opened})


def _silos(run: pb.Run, there: There, closed: bool) -> tuple[Sequence[pb.Member], Sequence[pb.Member]]:
    members, connected = there()
    if closed and run.round.number:  # or whoever enrols now would end the run
        members = list(run.round.members)
        connected = [m for m in connected if m.silo in {known.silo for known in members}]
    return members, connected


def _collecting(run: pb.Run, there: There, closed: bool, now: float) -> Step:
    round_, seconds = run.round, seconds_open(run, now)
    decision = rounds.verdict(run, seconds)
    if decision == "seal":
        return Step(event={"sealed": pb.Sealed(silos=sorted({a.silo for a in round_.accepted}))})
    if decision == "fail":
        return Step(
            failure=f"round {round_.number} ended with {len(round_.accepted)} of {rounds.updates_needed(run)} updates "
            f"({len(round_.refused)} refused, {len(round_.dropped)} gave up)"
        )
    members, connected = _silos(run, there, closed)
    further = rounds.further(run, connected)
    if further:
        return Step(event={"silos_added": pb.SilosAdded(silos=further, members=members)})
    return _until_deadline(run, seconds)


def _agreeing(run: pb.Run, now: float) -> Step:
    """Secure aggregation: goes on when all have sent keys or shares, or the deadline passed and enough have."""
    round_ = run.round
    agreeing = round_.phase == pb.PHASE_KEYS
    done = sorted(round_.mask_keys) if agreeing else sorted(round_.shared)
    seconds = seconds_open(run, now)
    waiting = set(round_.selected) - set(done) - set(round_.dropped)
    if waiting and not _late(run, seconds):
        return _until_deadline(run, seconds)
    needed = rounds.updates_needed(run)
    if len(done) < needed:
        return Step(failure=f"round {round_.number}: {len(done)} of {needed} silos agreed on masks")
    phase = pb.PHASE_SHARES if agreeing else pb.PHASE_OPEN
    return Step(event={"phase_changed": pb.PhaseChanged(phase=phase, silos=done)})


def _sealed(run: pb.Run) -> Step:
    """Masked sums mean nothing before enough survivors have answered; fails when too few are left to do so."""
    round_, needed = run.round, rounds.survivors_needed(run)
    if not run.spec.privacy.secure_aggregation or len(round_.unmasked) >= needed:
        return Step(work="reduce")
    left = (set(round_.sealed) - set(round_.dropped)) | set(round_.unmasked)
    if len(left) < needed:
        return Step(failure=f"round {round_.number}: {len(left)} of {needed} silos are left to remove the masks")
    return WAIT


def _evaluating(run: pb.Run, now: float) -> Step:
    waiting = set(run.round.evaluators) - {e.silo for e in run.round.evaluations} - set(run.round.dropped)
    seconds = now - reduced_at(run)
    if waiting and not _late(run, seconds):
        return _until_deadline(run, seconds)
    return Step(work="close")


def _deadline(run: pb.Run) -> float:
    """Seconds, or 0 for none."""
    return float(run.spec.policy.deadline.ToTimedelta().total_seconds())


def _late(run: pb.Run, seconds: float) -> bool:
    return bool(_deadline(run)) and seconds >= _deadline(run)


def _until_deadline(run: pb.Run, seconds: float) -> Step:
    left = _deadline(run) - seconds
    return Step(wake_in=left) if left > 0 else WAIT
