"""State of a run: a fold over the events of its journal."""

from __future__ import annotations

from eoforge.api.federation.v1 import federation_pb2 as pb

ENDED = frozenset({pb.RUN_STATUS_FINISHED, pb.RUN_STATUS_FAILED, pb.RUN_STATUS_CANCELLED})


def ended(run: pb.Run) -> bool:
    """Whether a run is finished, failed or cancelled."""
    return run.status in ENDED


def answered(run: pb.Run) -> set[str]:
    """Silos of the current round that have answered or dropped out."""
    done = {a.silo for a in run.round.accepted} | {r.silo for r in run.round.refused}
    return done | set(run.round.dropped)


def apply(run: pb.Run, event: pb.RunEvent) -> None:
    """Applies ``event`` to ``run``.

    Raises:
        ValueError: The event is not the next one.
    """
    if event.sequence != run.sequence + 1:
        raise ValueError(f"event {event.sequence} does not follow {run.sequence}")
    kind = event.WhichOneof("event")
    if kind is not None:
        _FOLDS[kind](run, event)
    run.sequence = event.sequence  # last: a reader of the number sees the effect of the event


def _created(run: pb.Run, event: pb.RunEvent) -> None:
    created = event.created
    run.run_id, run.creator, run.initial_model = created.run_id, event.actor, created.model
    run.spec.CopyFrom(created.spec)
    run.created_at.CopyFrom(event.at)
    run.status = pb.RUN_STATUS_RUNNING
    run.objects["model"] = created.model


def _lease_taken(run: pb.Run, event: pb.RunEvent) -> None:
    run.term, run.holder = event.term, event.lease_taken.holder


def _round_opened(run: pb.Run, event: pb.RunEvent) -> None:
    opened = event.round_opened
    run.round.CopyFrom(
        pb.Round(
            number=opened.number,
            phase=opened.phase,
            selected=opened.selected,
            wanted=opened.wanted,
            members=opened.members,
            opened_at=event.at,
        )
    )
    _update(run, opened.objects)
    members = {member.silo for member in opened.members}
    run.round.accepted.extend(late for late in run.waiting if late.silo in members)
    del run.waiting[:]


def _accepted(run: pb.Run, event: pb.RunEvent) -> None:
    (run.round.accepted if run.round.phase == pb.PHASE_OPEN else run.waiting).append(event.accepted)


def _refused(run: pb.Run, event: pb.RunEvent) -> None:
    refused = event.refused
    for index, accepted in enumerate(run.round.accepted):  # an outlier is accepted before the others are known
        if (accepted.silo, accepted.round, accepted.digest) == (refused.silo, refused.round, refused.digest):
            del run.round.accepted[index]
            break
    run.round.refused.append(refused)


def _dropped(run: pb.Run, event: pb.RunEvent) -> None:
    run.round.dropped.append(event.dropped.silo)


def _sealed(run: pb.Run, event: pb.RunEvent) -> None:
    run.round.sealed[:] = event.sealed.silos
    run.round.phase = pb.PHASE_SEALED


def _reduced(run: pb.Run, event: pb.RunEvent) -> None:
    _update(run, event.reduced.objects)
    run.round.evaluators[:] = event.reduced.evaluators
    run.round.phase = pb.PHASE_EVALUATION
    run.epsilon = event.reduced.epsilon
    run.round.seconds["collect"] = event.reduced.collect_seconds
    run.round.seconds["reduce"] = event.reduced.reduce_seconds


def _evaluated(run: pb.Run, event: pb.RunEvent) -> None:
    run.round.evaluations.append(event.evaluated)


def _round_closed(run: pb.Run, event: pb.RunEvent) -> None:
    run.history.append(event.round_closed.summary)
    run.round.phase = pb.PHASE_UNSPECIFIED


def _status_changed(run: pb.Run, event: pb.RunEvent) -> None:
    changed = event.status_changed
    run.status = changed.status
    if changed.status in (pb.RUN_STATUS_FAILED, pb.RUN_STATUS_CANCELLED):
        run.failure = changed.reason
    run.bundle_uri = changed.bundle_uri


def _keys_advertised(run: pb.Run, event: pb.RunEvent) -> None:
    run.round.mask_keys[event.keys_advertised.silo].CopyFrom(event.keys_advertised.keys)


def _shares_deposited(run: pb.Run, event: pb.RunEvent) -> None:
    run.round.shared.append(event.shares_deposited.silo)


def _unmasked(run: pb.Run, event: pb.RunEvent) -> None:
    run.round.unmasked.append(event.unmasked.silo)


def _phase_changed(run: pb.Run, event: pb.RunEvent) -> None:
    run.round.phase = event.phase_changed.phase
    run.round.opened_at.CopyFrom(event.at)  # each phase has the full deadline
    if event.phase_changed.silos:
        run.round.selected[:] = event.phase_changed.silos
        run.round.wanted = min(run.round.wanted, len(run.round.selected))


def _silos_added(run: pb.Run, event: pb.RunEvent) -> None:
    run.round.selected.extend(event.silos_added.silos)
    del run.round.members[:]
    run.round.members.extend(event.silos_added.members)


def _update(run: pb.Run, objects: object) -> None:
    for name, digest in dict(objects).items():  # type: ignore[call-overload]  # a protobuf map
        run.objects[name] = digest


_FOLDS = {
    "created": _created,
    "lease_taken": _lease_taken,
    "round_opened": _round_opened,
    "accepted": _accepted,
    "refused": _refused,
    "dropped": _dropped,
    "sealed": _sealed,
    "reduced": _reduced,
    "evaluated": _evaluated,
    "round_closed": _round_closed,
    "status_changed": _status_changed,
    "keys_advertised": _keys_advertised,
    "shares_deposited": _shares_deposited,
    "unmasked": _unmasked,
    "phase_changed": _phase_changed,
    "silos_added": _silos_added,
}
