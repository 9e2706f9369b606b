"""What takes long in the life of a run, and blocks: called on a thread, with a copy of the run's state."""

from __future__ import annotations

import time
from dataclasses import dataclass

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.federated.privacy import policy as privacy
from eoforge.federated.result import write_result
from eoforge.federated.run.state import ended
from eoforge.federated.store.run_files import RunFiles
from eoforge.federated.strategy import SiloInfo, Strategy
from eoforge.storage.memory import return_free_memory


@dataclass(frozen=True)
class Work:
    """The long steps of one run.

    Attributes:
        files: Its files.
        strategy: Its strategy.
        bundles_uri: Where its result goes.
        retain_rounds: Rounds whose updates are kept.
    """

    files: RunFiles
    strategy: Strategy
    bundles_uri: str
    retain_rounds: int

    def begin(self, run: pb.Run, opened: pb.RoundOpened) -> None:
        """Adds to the first round what the strategy starts with."""
        silos = tuple(SiloInfo(m.silo, m.samples, m.modality) for m in opened.members)
        for group, digest in self.files.begin(run, self.strategy, silos).items():
            opened.objects[group] = digest

    def reduce(self, run: pb.Run, collected: float) -> pb.Reduced:
        """Reduces the sealed round.

        Args:
            run: The run.
            collected: Seconds that collecting took.
        """
        started = time.perf_counter()
        objects = self.files.reduce(run, self.strategy, privacy.combiner(run, self.files))
        every = run.spec.policy.evaluate_every
        reduced = pb.Reduced(
            objects=objects,
            evaluators=list(run.round.selected) if every and run.round.number % every == 0 else [],
            collect_seconds=collected,
            reduce_seconds=time.perf_counter() - started,
            epsilon=privacy.epsilon(run.spec, len(run.history) + 1),
        )
        return_free_memory()
        return reduced

    def finish(self, run: pb.Run) -> pb.StatusChanged:
        """Writes the run bundle."""
        uri = write_result(self.files.objects, run, self.bundles_uri)
        return pb.StatusChanged(status=pb.RUN_STATUS_FINISHED, bundle_uri=uri)

    def clean_up(self, run: pb.Run) -> None:
        """Deletes what nothing needs any more.

        A failed run keeps its last rounds, refused updates among them, for whoever asks why.
        """
        if ended(run):
            self.files.forget_secret()
        over = ended(run) and run.status != pb.RUN_STATUS_FAILED
        self.files.discard_rounds(run.round.number + 1 - (0 if over else self.retain_rounds))
        self.files.collect(run)
