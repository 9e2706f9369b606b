"""Next step of a run: opening, collecting, reducing, evaluating and closing of its rounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.federated.privacy import policy as privacy
from eoforge.federated.run.rounds import opening, outliers, sealing
from eoforge.federated.run.state import ended

EligibleSilos = Callable[[], tuple[Sequence[pb.Member], Sequence[pb.Member]]]
"""Members of the run, and those of them that are connected."""


@dataclass(frozen=True)
class Step:
    """Next step of a run: at most one of these; none of them while the run waits for an event.

    Attributes:
        event: Event to write, as the one keyword of :class:`RunEvent`.
        work: Long operation to start; other events may be written meanwhile.
        failure: Reason why the run cannot continue.
        wake_in: Seconds after which time alone may change the decision.
    """

    event: dict[str, Any] | None = None
    work: Literal["reduce", "finish", "close"] | None = None
    failure: str | None = None
    wake_in: float | None = None


WAIT = Step()
DIGEST_DIGITS = 16
"""Digits of an update's digest that the history keeps, to tell a repeated update from another one."""


def next_step(run: pb.Run, eligible_silos: EligibleSilos, closed: bool, now: float) -> Step:
    """Next step of a run.

    Args:
        run: State of the run.
        eligible_silos: Called only where silos are selected.
        closed: Whether only the silos of the first round may ever take part.
        now: Seconds since the epoch.
    """
    if ended(run):
        return WAIT
    phase = run.round.phase
    if phase == pb.PHASE_UNSPECIFIED:
        return _open(run, eligible_silos, closed)
    if phase == pb.PHASE_OPEN:
        return _collect(run, eligible_silos, closed, now)
    if phase == pb.PHASE_SEALED:
        return _reduce(run)
    if phase == pb.PHASE_EVALUATION:
        return _evaluate(run, now)
    return _agree_on_masks(run, now)


def seconds_open(run: pb.Run, now: float) -> float:
    """Seconds since the round, or its current phase of mask agreement, began."""
    return now - run.round.opened_at.ToNanoseconds() / 1e9


def reduced_at(run: pb.Run) -> float:
    """Time at which the model of the round was stored, in seconds since the epoch."""
    return run.round.opened_at.ToNanoseconds() / 1e9 + run.round.seconds["collect"] + run.round.seconds["reduce"]


def evaluators(run: pb.Run) -> list[str]:
    """Silos that evaluate the model of the current round; empty if it is not evaluated."""
    every = run.spec.policy.evaluate_every
    if not every or run.round.number % every:
        return []
    without = {member.silo for member in run.round.members if member.trains_only}
    return [silo for silo in run.round.selected if silo not in without]


def summary(run: pb.Run, evaluate_seconds: float) -> pb.RoundSummary:
    """Summary of the current round, for the history of the run."""
    round_ = run.round
    counted = [a for a in round_.accepted if a.silo in round_.sealed]
    digests = {a.silo: a.digest[:DIGEST_DIGITS] for a in counted}
    return pb.RoundSummary(
        number=round_.number,
        model=run.objects["model"],
        updates=len(counted),
        refused=len(round_.refused),
        stragglers=sorted(set(round_.selected) - set(round_.sealed)),
        training=averaged((a.samples, dict(a.metrics)) for a in counted),
        evaluation=averaged((e.samples, dict(e.metrics)) for e in round_.evaluations),
        bytes_up=sum(a.size for a in counted),
        seconds={**dict(round_.seconds), "evaluate": evaluate_seconds if round_.evaluators else 0.0},
        epsilon=run.epsilon,
        silos=round_.sealed,
        late={a.silo: a.round for a in counted if a.round != round_.number},
        digests=[digests[silo] for silo in round_.sealed],
    )


def averaged(measured: Iterable[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """Averages of metrics, weighted by samples, each over the silos that measured a finite value."""
    values: dict[str, list[tuple[int, float]]] = {}
    for samples, metrics in measured:
        for name, value in metrics.items():
            if math.isfinite(value) and samples:
                values.setdefault(name, []).append((samples, value))
    means = {}
    for name, weighted in sorted(values.items()):
        whole = sum(samples for samples, _ in weighted)
        # Shares first: the product of a large value and a sample count could be infinite.
        means[name] = math.fsum(value * (samples / whole) for samples, value in weighted)
    return means


def target_reached(spec: pb.RunSpec, evaluation: dict[str, float]) -> bool:
    """Whether an evaluation meets the target of the run."""
    policy = spec.policy
    value = evaluation.get(policy.target_metric) if policy.target_metric else None
    if value is None:
        return False
    return value <= policy.target_value if policy.target_is_minimum else value >= policy.target_value


def _open(run: pb.Run, eligible_silos: EligibleSilos, closed: bool) -> Step:
    spec = run.spec
    reached = bool(run.history) and target_reached(spec, dict(run.history[-1].evaluation))
    if run.round.number >= spec.policy.rounds or reached or privacy.exhausted(run):
        return Step(work="finish")
    if run.status == pb.RUN_STATUS_PAUSED:
        return WAIT
    number = run.round.number + 1
    members, connected = _silos(run, eligible_silos, closed)
    selection = opening.select(spec, number, connected)
    if selection is None:
        return WAIT
    opened = pb.RoundOpened(
        number=number,
        selected=selection.silos,
        wanted=selection.wanted,
        members=members,
        phase=pb.PHASE_KEYS if spec.privacy.secure_aggregation else pb.PHASE_OPEN,
    )
    return Step(event={"round_opened": opened})


def _silos(run: pb.Run, eligible_silos: EligibleSilos, closed: bool) -> tuple[Sequence[pb.Member], Sequence[pb.Member]]:
    members, connected = (opening.pinned(silos, run) for silos in eligible_silos())
    if closed and run.round.number:  # a silo that registers now would make the run fail
        members = list(run.round.members)
        known = {member.silo for member in members}
        connected = [m for m in connected if m.silo in known]
    return members, connected


def _collect(run: pb.Run, eligible_silos: EligibleSilos, closed: bool, now: float) -> Step:
    round_, seconds = run.round, seconds_open(run, now)
    decision = sealing.decide(run, seconds)
    if decision == "seal":
        outlier = outliers.largest_outlier(run)
        if outlier is not None:
            return Step(event={"refused": outlier})
        return Step(event={"sealed": pb.Sealed(silos=sorted({a.silo for a in round_.accepted}))})
    if decision == "fail":
        return Step(
            failure=f"round {round_.number} ended with {len(round_.accepted)} of {sealing.updates_needed(run)} updates "
            f"({len(round_.refused)} refused, {len(round_.dropped)} gave up)"
        )
    members, connected = _silos(run, eligible_silos, closed)
    additional = sealing.additional_silos(run, connected)
    if additional:
        return Step(event={"silos_added": pb.SilosAdded(silos=additional, members=members)})
    return _wait_for_deadline(run, seconds)


def _agree_on_masks(run: pb.Run, now: float) -> Step:
    """Keys and shares of secure aggregation: complete when all silos have answered, or enough by the deadline."""
    round_ = run.round
    agreeing = round_.phase == pb.PHASE_KEYS
    done = sorted(round_.mask_keys) if agreeing else sorted(round_.shared)
    seconds = seconds_open(run, now)
    waiting = set(round_.selected) - set(done) - set(round_.dropped)
    if waiting and not sealing.deadline_passed(run, seconds):
        return _wait_for_deadline(run, seconds)
    needed = sealing.updates_needed(run)
    if len(done) < needed:
        return Step(failure=f"round {round_.number}: {len(done)} of {needed} silos agreed on masks")
    phase = pb.PHASE_SHARES if agreeing else pb.PHASE_OPEN
    return Step(event={"phase_changed": pb.PhaseChanged(phase=phase, silos=done)})


def _reduce(run: pb.Run) -> Step:
    """Reduction of the sealed set; with masks only after enough survivors have revealed their shares."""
    round_, needed = run.round, sealing.survivors_needed(run)
    if not run.spec.privacy.secure_aggregation or len(round_.unmasked) >= needed:
        return Step(work="reduce")
    left = (set(round_.sealed) - set(round_.dropped)) | set(round_.unmasked)
    if len(left) < needed:
        return Step(failure=f"round {round_.number}: {len(left)} of {needed} silos are left to remove the masks")
    return WAIT


def _evaluate(run: pb.Run, now: float) -> Step:
    waiting = set(run.round.evaluators) - {e.silo for e in run.round.evaluations} - set(run.round.dropped)
    seconds = now - reduced_at(run)
    if waiting and not sealing.deadline_passed(run, seconds):
        return _wait_for_deadline(run, seconds)
    return Step(work="close")


def _wait_for_deadline(run: pb.Run, seconds: float) -> Step:
    left = sealing.deadline_seconds(run) - seconds
    return Step(wake_in=left) if left > 0 else WAIT
