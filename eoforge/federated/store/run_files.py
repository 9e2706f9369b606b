"""The files of one run: what silos download, what they upload, and what a round makes of it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import UsageError
from eoforge.federated.reduce import Combiner, StoredSource, write_reduction
from eoforge.federated.run.journal import Journal
from eoforge.federated.run.rounds import infos
from eoforge.federated.store.chunk_store import ChunkStore, StoredFile
from eoforge.federated.strategy import Reduction, RoundInfo, SiloInfo, Start, Strategy, UpdateInfo, name_of, split_name
from eoforge.storage.objects import ObjectStore
from eoforge.storage.tensorfile import Array, Layout, Specs

SECRET_BYTES = 32

Offer = dict[str, tuple[ChunkStore, str]]
"""What a silo downloads: group -> where it is, and its digest."""


class RunFiles:
    """Files of one run on the coordinator's store.

    Models and the strategy's state lie together under ``objects``; a round's uploads and what was cut to size for its
    silos lie in the round's own folder, which is deleted some rounds later.

    Args:
        store: The coordinator's store.
        run_id: Which run.
        pool: Where chunks are computed.
    """

    def __init__(self, store: ObjectStore, run_id: str, pool: ThreadPoolExecutor) -> None:
        self._store, self._run_id, self._pool = store, run_id, pool
        self.objects = ChunkStore(store, f"runs/{run_id}/objects")

    def secret(self) -> bytes:
        """The run's secret, 32 random bytes: made once, at its creation, and never given out."""
        self._store.put_if_absent(f"runs/{self._run_id}/secret", secrets.token_bytes(SECRET_BYTES))
        return self._store.get(f"runs/{self._run_id}/secret")

    def forget_secret(self) -> None:
        """Deletes it when no round will be reduced again: whoever had it could take the noise off every model."""
        self._store.delete(f"runs/{self._run_id}/secret")

    def update(self, number: int, silo: str) -> ChunkStore:
        """Where a silo's upload of a round lies."""
        return ChunkStore(self._store, f"{self._round(number)}/{silo}")

    def put_once(self, number: int, name: str, data: bytes) -> bool:
        """Stores a small file of a round; False if there is another one of that name, which stays."""
        key = f"{self._round(number)}/{name}"
        return self._store.put_if_absent(key, data) or self._store.get(key) == data

    def get(self, number: int, name: str) -> bytes:
        """A small file of a round.

        Raises:
            NotFound: There is none of that name.
        """
        return self._store.get(f"{self._round(number)}/{name}")

    def discard_rounds(self, before: int) -> None:
        """Deletes the folders of rounds with smaller numbers."""
        for key in list(self._store.list(f"runs/{self._run_id}/rounds")):
            if int(key.split("/")[3]) < before:
                self._store.delete(key)

    def collect(self, run: pb.Run) -> int:
        """Deletes objects that nothing names: neither the run's state nor a model that stays readable.

        For whoever acts for the run, between its rounds: a reduction under way has files that no event names yet. A
        coordinator that was held up in here, until another one took the run, deletes nothing of what that one made.

        Returns:
            Number of deleted files.
        """
        kept = list(run.history)[-run.spec.keep_models :]
        named = {run.initial_model, *run.objects.values(), *(summary.model for summary in kept)}
        later = Journal(self._store, run.run_id).events
        return self.objects.keep(named, lambda: all(event.term == run.term for event in later(run.sequence)))

    def state(self, run: pb.Run) -> dict[str, StoredFile]:
        """Server tensors by group."""
        return {group: self.objects.open(digest) for group, digest in sorted(run.objects.items())}

    def begin(self, run: pb.Run, strategy: Strategy, silos: Sequence[SiloInfo]) -> dict[str, str]:
        """Stores what the strategy starts with besides the model; group -> digest."""
        model = self.objects.open(run.objects["model"])
        started = strategy.start(model.specs, silos)
        groups: dict[str, dict[str, Start]] = {}
        for name, start in started.items():
            group, tensor = split_name(name)
            groups.setdefault(group, {})[tensor] = start
        written = {}
        for group, tensors in sorted(groups.items()):

            def fill(wanted: Sequence[tuple[str, int, int]], tensors: Mapping[str, Start] = tensors) -> list[Array]:
                return [_first(tensors[name], model, start, stop) for name, start, stop in wanted]

            layout = Layout.of({name: start.spec for name, start in tensors.items()})
            written[group] = self.objects.write(layout, fill, self._pool)
        return written

    def offer(self, run: pb.Run, strategy: Strategy, silo: SiloInfo, made: dict[object, str]) -> Offer:
        """What ``silo`` downloads in the current round; groups that it wants whole are offered as they are.

        Args:
            run: The run.
            strategy: Says what goes down.
            silo: To whom.
            made: Remembers, over the silos of a round, what was cut to size already.
        """
        state = self.state(run)
        wanted: dict[str, dict[str, str]] = {}
        for name, source in strategy.download(silo, full_specs(state)).items():
            group, tensor = split_name(name)
            wanted.setdefault(group, {})[tensor] = source
        offer: Offer = {}
        for group, tensors in sorted(wanted.items()):
            whole = _whole_group(tensors, state)
            if whole is not None:
                offer[group] = (self.objects, run.objects[whole])
                continue
            folder = ChunkStore(self._store, f"{self._round(run.round.number)}/_down")
            key = (run.round.number, frozenset(run.objects.items()), frozenset(tensors.items()))
            if key not in made:
                made[key] = self._cut(folder, tensors, state)
            offer[group] = (folder, made[key])
        return offer

    def reduce(self, run: pb.Run, strategy: Strategy, combiner: Combiner) -> dict[str, str]:
        """Reduces the sealed round; the same sealed set gives the same bytes.

        Args:
            run: The run, with a sealed round.
            strategy: Says what is computed.
            combiner: The plain sum, or what replaces it.

        Returns:
            All objects by group, changed or not.
        """
        round_ = run.round
        state = self.state(run)
        accepted = {a.silo: a for a in round_.accepted}
        updates = {s: self.update(accepted[s].round, s).open(accepted[s].digest) for s in round_.sealed}
        info = RoundInfo(
            round_.number - 1,
            infos(round_),
            tuple(
                UpdateInfo(s, a.samples, a.steps, frozenset(updates[s].specs), dict(a.scalars))
                for s in round_.sealed
                for a in (accepted[s],)
            ),
        )
        source = StoredSource(updates, state)
        reduction = strategy.reduction(info, full_specs(state), source)
        discount = run.spec.policy.late_discount
        late = {s: discount ** (round_.number - accepted[s].round) for s in round_.sealed}
        reduction = _discounted(reduction, late)
        written = write_reduction(reduction, state, source, self.objects, self._pool, combiner)
        return {**dict(run.objects), **written}

    def _cut(self, folder: ChunkStore, tensors: Mapping[str, str], state: Mapping[str, StoredFile]) -> str:
        source = StoredSource({}, state)
        specs = full_specs(state)

        def fill(wanted: Sequence[tuple[str, int, int]]) -> list[Array]:
            return [source.state(tensors[name], start, stop) for name, start, stop in wanted]

        return folder.write(Layout.of({t: specs[n] for t, n in tensors.items()}), fill, self._pool)

    def _round(self, number: int) -> str:
        return f"runs/{self._run_id}/rounds/{number:06d}"


def full_specs(state: Mapping[str, StoredFile]) -> Specs:
    """All server tensors by full name."""
    return {name_of(group, tensor): spec for group, file in state.items() for tensor, spec in file.specs.items()}


def _first(start: Start, model: StoredFile, first: int, last: int) -> Array:
    if start.values is not None:
        return np.asarray(start.values, dtype=start.spec.dtype).reshape(-1)[first:last]
    if start.copy_of is not None:
        group, tensor = split_name(start.copy_of)
        if group != "model":
            raise UsageError(f"a strategy may start with copies of model tensors; got {start.copy_of}")
        return model.read(tensor, first, last)
    return np.zeros(last - first, start.spec.dtype)


def _whole_group(tensors: Mapping[str, str], state: Mapping[str, StoredFile]) -> str | None:
    """The one group that ``tensors`` are all travelling tensors of, under their own names, or None."""
    groups = {split_name(source)[0] for source in tensors.values()}
    if len(groups) != 1 or any(split_name(source)[1] != tensor for tensor, source in tensors.items()):
        return None
    (group,) = groups
    travelling = {name for name, spec in state[group].specs.items() if spec.role != "counter"}
    return group if travelling == tensors.keys() else None


def _discounted(reduction: Reduction, factors: Mapping[str, float]) -> Reduction:
    """Late updates count less, and the others so much more that their shares add up to what they did."""
    if all(f == 1.0 for f in factors.values()):
        return reduction
    outputs = []
    for output in reduction.outputs:
        adds = []
        for add in output.add:
            shares = {silo: share * factors.get(silo, 1.0) for silo, share in add.shares.items()}
            kept = sum(shares.values())
            scale = add.scale * sum(add.shares.values()) / kept if kept else add.scale
            adds.append(replace(add, scale=scale, shares=shares))
        outputs.append(replace(output, add=tuple(adds)))
    return replace(reduction, outputs=tuple(outputs))
