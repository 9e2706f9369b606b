"""Transport of updates: announcement, check of the stored chunks, event in the run's journal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import DataRefused, LimitExceeded, NotFound, WrongState
from eoforge.federated.checks import check_facts, check_names, check_numbers, check_scalars, check_tensors
from eoforge.federated.privacy import policy as privacy
from eoforge.federated.run.rounds import updates
from eoforge.federated.run.rounds.opening import silo_info
from eoforge.federated.store.chunk_store import ChunkStore
from eoforge.federated.store.run_files import full_specs
from eoforge.storage.chunks import check_manifest, digest_of
from eoforge.storage.tensorfile import CHUNK_BYTES, Layout, Specs
from services._runtime.errors import PermissionDenied
from services.federation.actor import RunActor
from services.federation.coordinator import Coordinator
from services.federation.uploads import Uploads

MAX_REASON = 500
MAX_ANNOUNCED = 8
"""Different updates that a silo may announce in one round: a bound on what it can make the store hold."""


class Updates:
    """Receiver of updates.

    Args:
        coordinator: Runs and silos of this process.
        uploads: Receiver of their chunks.
    """

    def __init__(self, coordinator: Coordinator, uploads: Uploads) -> None:
        self._coordinator, self._uploads = coordinator, uploads
        self._retained = coordinator.retain_rounds

    async def announce(self, actor: RunActor, silo: str, number: int, manifest: pb.Manifest) -> list[int]:
        """Stores the manifest of an update, whose size is checked before any chunk is stored.

        Returns:
            Positions of the chunks that are missing.

        Raises:
            WrongState: No update of that round can count any more.
            PermissionDenied: The silo was not asked.
            LimitExceeded: The update is larger than expected, or the silo announces too many.
        """
        digest = digest_of(manifest)
        if updates.counts_already(actor.run, silo, number, digest):
            return []
        self.check_wanted(actor.run, number, silo)
        limit = Layout.of(await self._expected(actor, silo)).length + CHUNK_BYTES
        check_manifest(manifest, min(limit, self._coordinator.settings.max_model_bytes))
        chunks = actor.files.update(number, silo)
        known = await self._coordinator.in_thread(chunks.announced)
        if len(known) >= MAX_ANNOUNCED and digest not in known:
            raise LimitExceeded(f"a silo may announce {MAX_ANNOUNCED} updates in a round; hand one of them in")
        await self._coordinator.in_thread(chunks.put_manifest, manifest)
        missing: list[int] = await self._coordinator.in_thread(chunks.missing, manifest)
        return missing

    def check_wanted(self, run: pb.Run, number: int, silo: str) -> None:
        """Refuses an upload that cannot count, before any chunk is stored.

        Raises:
            WrongState: No update of that round can count any more.
            PermissionDenied: The silo was not asked.
        """
        late = updates.too_late(run, silo, number, self._retained)
        if late is not None:
            counted = updates.counted_digest(run, silo, number) is not None
            raise WrongState(updates.ANOTHER if counted else late)
        if number == run.round.number and silo not in run.round.selected:
            raise PermissionDenied(f"{silo} was not asked in round {number}")

    async def submit(self, actor: RunActor, silo: str, number: int, given: pb.UpdateAnswer) -> pb.AnswerResponse:
        """Verdict on an update whose chunks are stored; a repeated answer gets an equal verdict.

        Raises:
            NotFound: The update was never announced.
            WrongState: Chunks are missing.
        """
        known = updates.known_verdict(actor.run, silo, number, given.digest, self._retained)
        if known is not None:
            return known
        chunks, refusal = actor.files.update(number, silo), None
        try:
            event: dict[str, Any] = {"accepted": await self._check(actor, chunks, silo, number, given)}
        except (DataRefused, LimitExceeded) as error:
            refusal = str(error)[:MAX_REASON]
            event = {"refused": pb.Refused(silo=silo, round=number, digest=given.digest, reason=refusal)}
        finally:
            self._uploads.forget(chunks, given.digest)
        written = await actor.write(silo, lambda run: updates.may_count(run, silo, number, self._retained), **event)
        return updates.verdict_after(actor.run, silo, number, given.digest, refusal, written)

    async def _check(
        self, actor: RunActor, chunks: ChunkStore, silo: str, number: int, given: pb.UpdateAnswer
    ) -> pb.Accepted:
        spec = actor.run.spec
        try:
            manifest = await self._coordinator.in_thread(chunks.manifest, given.digest)
        except NotFound as error:
            raise NotFound("this update was never announced; call PrepareUpdate first") from error
        missing = await self._coordinator.in_thread(chunks.missing, manifest)
        if missing:
            raise WrongState(f"{len(missing)} of {len(manifest.chunks)} chunks are missing; send them, then answer")
        check_names(given.metrics)
        check_scalars(given.metrics)
        expected = await self._expected(actor, silo)
        start = await self._coordinator.in_thread(chunks.chunk, manifest.chunks[0]) if manifest.chunks else b""
        check_tensors(Layout.parse(start, manifest.length).specs, expected)
        limit = next((m.samples for m in actor.run.round.members if m.silo == silo), 0)
        check_numbers(given.samples, limit, dict(given.scalars), actor.strategy.required_scalars)
        squares = privacy.needs_norms(spec)
        facts = await self._coordinator.in_thread(self._uploads.facts, chunks, manifest, given.digest, squares)
        return pb.Accepted(
            silo=silo,
            round=number,
            digest=given.digest,
            samples=given.samples,
            steps=given.steps,
            size=manifest.length,
            scalars=given.scalars,
            metrics=given.metrics,
            norm=check_facts(facts, spec.data.max_update_norm),
        )

    async def _expected(self, actor: RunActor, silo: str) -> Specs:
        """Shape and dtype of every tensor of the silo's update."""
        state = full_specs(await self._coordinator.in_thread(actor.files.state, actor.run))
        expected = actor.strategy.upload(silo_info(actor.run, silo), state)
        if actor.run.spec.privacy.secure_aggregation:
            return {name: replace(tensor, dtype="uint64") for name, tensor in expected.items()}
        return expected
