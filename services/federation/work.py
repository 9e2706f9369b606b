"""Long, blocking operations of a run, called on a thread with a copy of the run's state."""

from __future__ import annotations

import time
from dataclasses import dataclass

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.federated.privacy import policy as privacy
from eoforge.federated.result import write_result
from eoforge.federated.run.rounds.opening import silo_infos
from eoforge.federated.run.rounds.steps import evaluators
from eoforge.federated.run.state import ended
from eoforge.federated.store.run_files import RunFiles
from eoforge.federated.strategy import Strategy
from eoforge.storage.memory import return_free_memory


@dataclass(frozen=True)
class Work:
    """Long operations of one run.

    Attributes:
        files: Files of the run.
        strategy: Strategy of the run.
        bundles_uri: Folder of the result.
        retain_rounds: Number of reduced rounds whose updates are kept.
    """

    files: RunFiles
    strategy: Strategy
    bundles_uri: str
    retain_rounds: int

    def begin(self, run: pb.Run, opened: pb.RoundOpened) -> None:
        """Adds the initial state of the strategy to the event of the first round."""
        for group, digest in self.files.begin(run, self.strategy, silo_infos(opened.members)).items():
            opened.objects[group] = digest

    def reduce(self, run: pb.Run, collected: float) -> pb.Reduced:
        """Reduces the sealed round.

        Args:
            run: State of the run.
            collected: Duration of the collection, in seconds.
        """
        started = time.perf_counter()
        objects = self.files.reduce(run, self.strategy, privacy.combiner(run, self.files))
        reduced = pb.Reduced(
            objects=objects,
            evaluators=evaluators(run),
            collect_seconds=collected,
            reduce_seconds=time.perf_counter() - started,
            epsilon=privacy.epsilon(run.spec, len(run.history) + 1),
        )
        return_free_memory()
        return reduced

    def finish(self, run: pb.Run) -> pb.StatusChanged:
        """Writes the run bundle."""
        uri = write_result(self.files.chunks, run, self.bundles_uri)
        return pb.StatusChanged(status=pb.RUN_STATUS_FINISHED, bundle_uri=uri)

    def clean_up(self, run: pb.Run) -> None:
        """Deletes files that are not needed any more.

        A failed run keeps its last rounds, with their refused updates, for an investigation.
        """
        if ended(run):
            self.files.delete_secret()
        over = ended(run) and run.status != pb.RUN_STATUS_FAILED
        self.files.discard_rounds(run.round.number + 1 - (0 if over else self.retain_rounds))
        self.files.collect(run)
