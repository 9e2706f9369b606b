"""Download sets of silos, built once per state of a run."""

from __future__ import annotations

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.federated.run.rounds.opening import silo_info
from eoforge.federated.store.run_files import DownloadSet, RunFiles
from eoforge.federated.strategy import Strategy


class DownloadSets:
    """Cache of the download sets of one state; a change of state empties it.

    Args:
        files: Files of the run.
        strategy: Strategy of the run, which selects the tensors.
    """

    def __init__(self, files: RunFiles, strategy: Strategy) -> None:
        self._files, self._strategy = files, strategy
        self._state: tuple[int, tuple[tuple[str, str], ...]] = (0, ())
        self._sets: dict[str, DownloadSet] = {}
        self._cut: dict[object, str] = {}

    def of(self, run: pb.Run, silo: str) -> DownloadSet:
        """Download set of a silo; blocks, and must not be called concurrently."""
        state = (run.round.number, tuple(sorted(run.objects.items())))
        if state != self._state:
            self._sets, self._cut, self._state = {}, {}, state
        if silo not in self._sets:
            self._sets[silo] = self._files.download_set(run, self._strategy, silo_info(run, silo), self._cut)
        return self._sets[silo]
