"""Files of an annotation session: settings, batches and the table of annotations.

::

    <address>/session.json        what is annotated, by which settings; written once
              annotations.lance   every answer, undo and adjudication, each exactly once
              rounds/0000.json    a batch of pairs and the model that chose it; written once each
              models/             weights of the head after each batch
              features.npz        features of the frozen encoder, a cache
              runs/<bundle>       the final model
"""

from __future__ import annotations

from dataclasses import replace
from typing import Self

from eoforge.data.tables.append import compact
from eoforge.data.tables.commit import create_table
from eoforge.errors import NotFound, UsageError, WrongState
from eoforge.methods.anneal.annotations import ANNOTATIONS, Annotations, read_annotations
from eoforge.methods.anneal.config import Config
from eoforge.methods.anneal.round_files import FOLDER, Round
from eoforge.methods.anneal.session_state import SETTINGS, Settings, Status
from eoforge.storage.addresses import TableRef, join, normalise, open_table
from eoforge.storage.objects import ObjectStore

TABLE = "annotations.lance"
_MAX_SETTINGS, _MAX_ROUND = 1 << 20, 64 << 20


class SessionFiles:
    """A session as it is stored.

    Attributes:
        address: Folder of the session.
        settings: Its fixed facts.
        table: Address of the annotations.
    """

    def __init__(self, address: str, settings: Settings) -> None:
        self.address, self.settings = address, settings
        self._store = ObjectStore(address, durable=True)
        self.table = join(address, TABLE)
        self._rounds: tuple[Round, ...] = ()

    @classmethod
    def create(cls, address: str, patches: TableRef, config: Config, *, votes: int = 1, ahead: float = 1.0) -> Self:
        """A new session, yet without a batch; the same call again opens it.

        Args:
            address: A folder of its own, local or ``s3://``.
            patches: Patches table; without a version the newest is taken.
            config: Settings of the method.
            votes: See :class:`Settings`.
            ahead: See :class:`Settings`.

        Raises:
            NotFound: There is no such table or version.
            UsageError: A value is out of range, or the address holds another session.
        """
        address = normalise(address)
        settings = Settings(patches.pinned(), config, votes, ahead)
        store = ObjectStore(address, durable=True)
        if not store.exists(SETTINGS):
            create_table(join(address, TABLE), ANNOTATIONS)
            store.put_if_absent(SETTINGS, settings.dump(address))
        opened = cls.open(address)  # of concurrent creators the first one counts
        held = opened.settings.patches
        if replace(opened.settings, patches=settings.patches) != settings or held.uri != settings.patches.uri:
            raise UsageError(f"{address} holds a session with other settings; open it, or choose another folder")
        if patches.version not in (None, held.version):
            raise UsageError(f"{address} holds a session on {held}; got {patches}")
        return opened

    @classmethod
    def open(cls, address: str) -> Self:
        """The session at an address.

        Raises:
            NotFound: There is none, or its patches are gone.
            DataRefused: Another table is at the address of its patches.
            DamagedObject: Its settings cannot be read.
        """
        address = normalise(address)
        try:
            data = ObjectStore(address).get(SETTINGS, _MAX_SETTINGS)
        except NotFound as error:
            raise NotFound(f"there is no annotation session at {address}") from error
        return cls(address, Settings.parse(data, address))

    def rounds(self) -> tuple[Round, ...]:
        """All batches, oldest first."""
        known = self._rounds  # replaced as a whole: threads may share a session
        while True:
            key = f"{FOLDER}/{len(known):04d}.json"
            try:
                data = self._store.get(key, _MAX_ROUND)
            except NotFound:
                self._rounds = known
                return known
            known = (*known, Round.parse(data, join(self.address, key)))

    def annotations(self, version: int | None = None) -> Annotations:
        """Annotations at a version of their table, or the newest ones."""
        return read_annotations(open_table(TableRef(self.table, version)))

    def version(self) -> int:
        """Newest version of the table of annotations."""
        return int(open_table(TableRef(self.table)).version)

    def status(self) -> Status:
        """State of the session."""
        return Status.of(self.settings, self.rounds(), self.annotations(), self.address)

    def add_round(self, new: Round) -> Round:
        """The batch with the number of ``new``: ``new`` itself, or the one of a concurrent call that was faster.

        Raises:
            WrongState: Batches before it are missing, or a pair is of an earlier batch.
        """
        rounds = self.rounds()
        if new.iteration > len(rounds):
            raise WrongState(f"batch {new.iteration} follows batch {new.iteration - 1}; there are {len(rounds)}")
        earlier = {pair for each in rounds[: new.iteration] for pair in each.pairs}
        if repeated := earlier.intersection(new.pairs):
            raise WrongState(f"{min(repeated)} is of an earlier batch")
        self._store.put_if_absent(f"{FOLDER}/{new.iteration:04d}.json", new.dump())
        compact(self.table)
        return self.rounds()[new.iteration]
