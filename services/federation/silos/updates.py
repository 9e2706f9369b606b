"""Updates from their announcement to a verdict: what may be stored at all, and what counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import DataRefused, LimitExceeded, NotFound, WrongState
from eoforge.federated.checks import check_facts, check_names, check_numbers, check_tensors
from eoforge.federated.privacy import policy as privacy
from eoforge.federated.run.state import ended
from eoforge.federated.store.chunk_store import ChunkStore
from eoforge.federated.store.run_files import full_specs
from eoforge.federated.strategy import SiloInfo
from eoforge.storage.chunks import check_manifest, digest_of
from eoforge.storage.tensorfile import CHUNK_BYTES, Layout, Specs
from services._runtime.errors import PermissionDenied
from services.federation.actor import RunActor
from services.federation.coordinator import Coordinator
from services.federation.uploads import Uploads

MAX_REASON = 500
MAX_ANNOUNCED = 8
"""Different updates that a silo may announce in one round: what it can make the store hold."""


class Updates:
    """Judges updates.

    Args:
        coordinator: The coordinator.
        uploads: Where their chunks arrive.
    """

    def __init__(self, coordinator: Coordinator, uploads: Uploads) -> None:
        self._coordinator, self._uploads = coordinator, uploads

    async def announce(self, actor: RunActor, silo: str, number: int, manifest: pb.Manifest) -> list[int]:
        """Takes a manifest; which of its chunks are missing. Its size is known before anything is stored.

        Raises:
            WrongState: No update of that round can count any more.
            PermissionDenied: The silo was not asked.
            LimitExceeded: It is larger than what was asked for, or the silo announces too many.
        """
        if _counted(actor.run, silo, number) in (digest_of(manifest), ""):
            return []  # it counts already: only the acknowledgement was lost
        self.check_wanted(actor.run, number, silo)
        most = Layout.of(await self._expected(actor, silo)).length + CHUNK_BYTES
        check_manifest(manifest, min(most, self._coordinator.settings.max_model_bytes))
        objects = actor.files.update(number, silo)
        known = await self._coordinator.in_thread(objects.announced)
        if len(known) >= MAX_ANNOUNCED and digest_of(manifest) not in known:
            raise LimitExceeded(f"a silo may announce {MAX_ANNOUNCED} updates in a round; hand one of them in")
        await self._coordinator.in_thread(objects.put_manifest, manifest)
        missing: list[int] = await self._coordinator.in_thread(objects.missing, manifest)
        return missing

    def check_wanted(self, run: pb.Run, number: int, silo: str) -> None:
        """Refuses uploads that nobody asked for, before they cost anything.

        Raises:
            WrongState: No update of that round can count any more.
            PermissionDenied: The silo was not asked.
        """
        late = too_late(run, silo, number, self._coordinator.retain_rounds)
        if late is not None:
            raise WrongState(late)
        if number == run.round.number and silo not in run.round.selected:
            raise PermissionDenied(f"{silo} was not asked in round {number}")

    async def hand_in(self, actor: RunActor, silo: str, number: int, answer: pb.UpdateAnswer) -> pb.AnswerResponse:
        """The verdict on an update whose chunks are stored; the same however often it is asked for.

        Raises:
            NotFound: It was never announced.
            WrongState: Chunks are missing.
        """
        run = actor.run
        before = _counted(run, silo, number)
        if before is not None:
            same = before in (answer.digest, "")
            return verdict(pb.VERDICT_ACCEPTED) if same else dropped("this round has another update of yours already")
        late = too_late(run, silo, number, self._coordinator.retain_rounds)
        if late is not None:
            return dropped(late)
        for refused in run.round.refused:
            if (refused.silo, refused.round, refused.digest) == (silo, number, answer.digest):
                return verdict(pb.VERDICT_REFUSED, refused.reason)

        def still(now: pb.Run) -> bool:
            taken = now.round.accepted if now.round.phase == pb.PHASE_OPEN else now.waiting
            return not _has_one(taken, silo) and too_late(now, silo, number, self._coordinator.retain_rounds) is None

        objects = actor.files.update(number, silo)
        try:
            accepted = await self._judge(actor, objects, silo, number, answer)
        except (DataRefused, LimitExceeded) as error:
            reason = str(error)[:MAX_REASON]
            refused = pb.Refused(silo=silo, round=number, digest=answer.digest, reason=reason)
            if not await actor.write(silo, still, refused=refused):
                return dropped("the round went on without it")
            return verdict(pb.VERDICT_REFUSED, reason)
        finally:
            self._uploads.forget(objects, answer.digest)
        if not await actor.write(silo, still, accepted=accepted):
            if _counted(actor.run, silo, number) == answer.digest:  # the same answer, sent twice at the same time
                return verdict(pb.VERDICT_ACCEPTED)
            return dropped("the round went on without it")
        in_time = any((a.silo, a.round) == (silo, actor.run.round.number) for a in actor.run.round.accepted)
        return verdict(pb.VERDICT_ACCEPTED if in_time and number == actor.run.round.number else pb.VERDICT_FOLDED)

    async def _judge(
        self, actor: RunActor, objects: ChunkStore, silo: str, number: int, answer: pb.UpdateAnswer
    ) -> pb.Accepted:
        spec = actor.run.spec
        try:
            manifest = await self._coordinator.in_thread(objects.manifest, answer.digest)
        except NotFound as error:
            raise NotFound("this update was never announced; call PrepareUpdate first") from error
        missing = await self._coordinator.in_thread(objects.missing, manifest)
        if missing:
            raise WrongState(f"{len(missing)} of {len(manifest.chunks)} chunks are missing; send them, then answer")
        check_names(answer.metrics)
        expected = await self._expected(actor, silo)
        start = await self._coordinator.in_thread(objects.chunk, manifest.chunks[0]) if manifest.chunks else b""
        check_tensors(Layout.parse(start, manifest.length).specs, expected)
        most = next((m.samples for m in actor.run.round.members if m.silo == silo), 0)
        check_numbers(answer.samples, most, dict(answer.scalars))
        squares = privacy.needs_norms(spec)
        facts = await self._coordinator.in_thread(self._uploads.facts, objects, manifest, answer.digest, squares)
        norm = check_facts(facts, spec.data.max_update_norm)
        return pb.Accepted(
            silo=silo,
            round=number,
            digest=answer.digest,
            samples=answer.samples,
            steps=answer.steps,
            size=manifest.length,
            scalars=answer.scalars,
            metrics=answer.metrics,
            norm=norm,
        )

    async def _expected(self, actor: RunActor, silo: str) -> Specs:
        member = next(m for m in actor.run.round.members if m.silo == silo)
        state = full_specs(await self._coordinator.in_thread(actor.files.state, actor.run))
        expected = actor.strategy.upload(SiloInfo(silo, member.samples, member.modality), state)
        if actor.run.spec.privacy.secure_aggregation:
            return {name: replace(tensor, dtype="uint64") for name, tensor in expected.items()}
        return expected


def too_late(run: pb.Run, silo: str, number: int, retained: int) -> str | None:
    """Why an update of that round cannot count (any more), or None.

    Args:
        run: Its state.
        silo: Who sends it.
        number: The round that it was trained in.
        retained: Rounds whose updates are kept after they were reduced.
    """
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
    # It counts in the open round, or in the next one while none is open.
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
    if any(summary.number == number for summary in run.history):
        return any(summary.number == number and silo in summary.stragglers for summary in run.history)
    return number == run.round.number and silo in run.round.selected and silo not in run.round.sealed


def _has_one(accepted: Any, silo: str) -> bool:
    return any(a.silo == silo for a in accepted)


def _counted(run: pb.Run, silo: str, number: int) -> str | None:
    """Digest of the update that counts already, empty if the round is over and only that it counted is known."""
    for accepted in (*run.round.accepted, *run.waiting):
        if (accepted.silo, accepted.round) == (silo, number):
            return str(accepted.digest)
    if any(silo in summary.silos and summary.late.get(silo, summary.number) == number for summary in run.history):
        return ""
    return None


def dropped(reason: str) -> pb.AnswerResponse:
    """The answer to what came too late."""
    return verdict(pb.VERDICT_DROPPED, reason)


def verdict(given: Any, reason: str = "") -> pb.AnswerResponse:
    """What became of an answer."""
    return pb.AnswerResponse(verdict=given, reason=reason)
