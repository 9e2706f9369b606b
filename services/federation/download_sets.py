"""What silos download in the current state of a run, made once for each."""

from __future__ import annotations

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import UsageError
from eoforge.federated.run import rounds
from eoforge.federated.store.run_files import Offer, RunFiles
from eoforge.federated.strategy import SiloInfo, Strategy


class DownloadSets:
    """Remembers the offers of one state: the next one forgets them.

    Args:
        files: The run's files.
        strategy: Says what goes down.
    """

    def __init__(self, files: RunFiles, strategy: Strategy) -> None:
        self._files, self._strategy = files, strategy
        self._state: tuple[int, tuple[tuple[str, str], ...]] = (0, ())
        self._made: dict[str, Offer] = {}
        self._cut: dict[object, str] = {}

    def of(self, run: pb.Run, silo: str) -> Offer:
        """The offer of a silo; blocks, and must not be called twice at a time."""
        state = (run.round.number, tuple(sorted(run.objects.items())))
        if state != self._state:
            self._made, self._cut, self._state = {}, {}, state
        if silo not in self._made:
            self._made[silo] = self._files.offer(run, self._strategy, info_of(run, silo), self._cut)
        return self._made[silo]


def info_of(run: pb.Run, silo: str) -> SiloInfo:
    """A silo of the open round as strategies see it.

    Raises:
        UsageError: It is none.
    """
    found = [info for info in rounds.infos(run.round) if info.id == silo]
    if not found:
        raise UsageError(f"{silo} is no silo of the current round")
    return found[0]
