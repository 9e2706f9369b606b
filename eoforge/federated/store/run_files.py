"""Files of one run: models, download sets, updates, and the reduction of a round."""

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
from eoforge.federated.run.rounds.opening import silo_infos
from eoforge.federated.store.chunk_store import ChunkStore, StoredFile
from eoforge.federated.strategy import Reduction, RoundInfo, SiloInfo, Start, Strategy, UpdateInfo, name_of, split_name
from eoforge.storage.objects import ObjectStore
from eoforge.storage.tensorfile import Array, Layout, Specs

SECRET_BYTES = 32

DownloadSet = dict[str, tuple[ChunkStore, str]]
"""Files that a silo downloads: group -> chunk store and digest of the file."""


class RunFiles:
    """Files of one run on the coordinator's store.

    Models and the state of the strategy lie below ``objects/``. Uploads and download sets of a round lie in the folder
    of the round, which is deleted some rounds later.

    Args:
        store: Store of the coordinators.
        run_id: Id of the run.
        pool: Threads that compute chunks.

    Attributes:
        chunks: Models and the state of the strategy.
    """

    def __init__(self, store: ObjectStore, run_id: str, pool: ThreadPoolExecutor) -> None:
        self._store, self._run_id, self._pool = store, run_id, pool
        self.chunks = ChunkStore(store, f"runs/{run_id}/objects")

    def secret(self) -> bytes:
        """Secret of the run: 32 random bytes, created with the run, never sent."""
        self._store.put_if_absent(f"runs/{self._run_id}/secret", secrets.token_bytes(SECRET_BYTES))
        return self._store.get(f"runs/{self._run_id}/secret")

    def delete_secret(self) -> None:
        """Deletes the secret, which allows to remove the noise from every model, after the last reduction."""
        self._store.delete(f"runs/{self._run_id}/secret")

    def update(self, number: int, silo: str) -> ChunkStore:
        """Upload of a silo in a round."""
        return ChunkStore(self._store, f"{self._round(number)}/{silo}")

    def put_once(self, number: int, name: str, data: bytes) -> bool:
        """Stores a small file of a round; False if a different file has that name, which stays."""
        key = f"{self._round(number)}/{name}"
        return self._store.put_if_absent(key, data) or self._store.get(key) == data

    def get(self, number: int, name: str) -> bytes:
        """Content of a small file of a round.

        Raises:
            NotFound: No file has that name.
        """
        return self._store.get(f"{self._round(number)}/{name}")

    def discard_rounds(self, before: int) -> None:
        """Deletes the folders of rounds with smaller numbers."""
        for key in list(self._store.list(f"runs/{self._run_id}/rounds")):
            number = key.split("/")[3]
            if number.isdecimal() and int(number) < before:
                self._store.delete(key)

    def collect(self, run: pb.Run) -> int:
        """Deletes files that are neither named by the run's state nor models that stay readable.

        To be called between rounds by the coordinator that acts for the run: a reduction in progress has files that no
        event names yet. A coordinator that is delayed here until another one has taken the run deletes nothing.

        Returns:
            Number of deleted objects.
        """
        kept = list(run.history)[-run.spec.keep_models :]
        named = {run.initial_model, *run.objects.values(), *(summary.model for summary in kept)}
        journal = Journal(self._store, run.run_id)
        return self.chunks.keep(named, lambda: all(event.term == run.term for event in journal.events(run.sequence)))

    def state(self, run: pb.Run) -> dict[str, StoredFile]:
        """Files of server tensors by group."""
        return {group: self.chunks.open(digest) for group, digest in sorted(run.objects.items())}

    def begin(self, run: pb.Run, strategy: Strategy, silos: Sequence[SiloInfo]) -> dict[str, str]:
        """Stores the initial state of the strategy besides the model; returns digests by group."""
        model = self.chunks.open(run.objects["model"])
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
            written[group] = self.chunks.write(layout, fill, self._pool)
        return written

    def download_set(self, run: pb.Run, strategy: Strategy, silo: SiloInfo, written: dict[object, str]) -> DownloadSet:
        """Files that ``silo`` downloads in the current round; a group that is needed whole is not copied.

        Args:
            run: State of the run.
            strategy: Strategy of the run, which selects the tensors.
            silo: Receiver.
            written: Cache of files that were written for other silos of the round; extended here.
        """
        state = self.state(run)
        wanted: dict[str, dict[str, str]] = {}
        for name, source in strategy.download(silo, full_specs(state)).items():
            group, tensor = split_name(name)
            wanted.setdefault(group, {})[tensor] = source
        files: DownloadSet = {}
        for group, tensors in sorted(wanted.items()):
            whole = _whole_group(tensors, state)
            if whole is not None:
                files[group] = (self.chunks, run.objects[whole])
                continue
            folder = ChunkStore(self._store, f"{self._round(run.round.number)}/_down")
            key = (run.round.number, frozenset(run.objects.items()), frozenset(tensors.items()))
            if key not in written:
                written[key] = self._write_part(folder, tensors, state)
            files[group] = (folder, written[key])
        return files

    def reduce(self, run: pb.Run, strategy: Strategy, combiner: Combiner) -> dict[str, str]:
        """Reduces the sealed round; equal sealed sets give equal bytes.

        Args:
            run: State of the run, with a sealed round.
            strategy: Strategy of the run.
            combiner: The weighted sum, or its replacement.

        Returns:
            Digests of all groups, changed or not.
        """
        round_ = run.round
        state = self.state(run)
        accepted = {a.silo: a for a in round_.accepted}
        updates = {s: self.update(accepted[s].round, s).open(accepted[s].digest) for s in round_.sealed}
        info = RoundInfo(
            round_.number - 1,
            silo_infos(round_.members),
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
        written = write_reduction(reduction, state, source, self.chunks, self._pool, combiner)
        return {**dict(run.objects), **written}

    def _write_part(self, folder: ChunkStore, tensors: Mapping[str, str], state: Mapping[str, StoredFile]) -> str:
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
    """The group whose transferred tensors are exactly ``tensors``, under their own names, or None."""
    groups = {split_name(source)[0] for source in tensors.values()}
    if len(groups) != 1 or any(split_name(source)[1] != tensor for tensor, source in tensors.items()):
        return None
    (group,) = groups
    transferred = {name for name, spec in state[group].specs.items() if spec.role != "counter"}
    return group if transferred == tensors.keys() else None


def _discounted(reduction: Reduction, factors: Mapping[str, float]) -> Reduction:
    """Reduction in which late updates count less, with the sum of all shares unchanged."""
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
