"""Timeline of the federated demo: updates, sealed sets and kills, for the terminal and the report."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from eoforge.cli import output
from eoforge.errors import EoforgeError

if TYPE_CHECKING:
    from eoforge.api.federation.v1 import federation_pb2 as pb

SILOS = ("silo-1", "silo-2", "silo-3", "silo-4")


@dataclass
class Timeline:
    """Record of one demo.

    Attributes:
        patches: Training patches of each silo.
        state: Last known activity of each silo.
        updates: Accepted updates of each silo.
        loss: Training loss of each silo's last update.
        events: Seconds since the start, and a sentence.
        accepted: By round: silos in the order in which the journal accepted their updates.
        sealed: By round: silos whose updates made the model.
        kept: Updates of the open round that were accepted before the coordinator was killed.
        resume_seconds: Time from that kill to the next event of the run.
    """

    patches: dict[str, int]
    state: dict[str, str] = field(default_factory=lambda: dict.fromkeys(SILOS, "starting"))
    updates: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SILOS, 0))
    loss: dict[str, float] = field(default_factory=dict)
    events: list[tuple[float, str]] = field(default_factory=list)
    accepted: dict[int, list[str]] = field(default_factory=dict)
    sealed: dict[int, list[str]] = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    resume_seconds: float | None = None
    round: int = 0
    started: float = field(default_factory=time.monotonic)

    def add(self, sentence: str) -> None:
        """Records and prints one line."""
        self.events.append((round(time.monotonic() - self.started, 1), sentence))
        output.say(f"{self.events[-1][0]:6.1f} s  {escape(sentence)}")

    def record(self, event: pb.RunEvent) -> None:
        """Records an event of the run."""
        kind = event.WhichOneof("event")
        if kind == "round_opened":
            self.round = event.round_opened.number
            self.state.update(dict.fromkeys(event.round_opened.selected, "training"))
        elif kind == "accepted":
            update = event.accepted
            self.accepted.setdefault(self.round, []).append(update.silo)
            self.updates[update.silo] += 1
            self.state[update.silo] = "waiting"
            self.loss[update.silo] = update.metrics["loss"]
        elif kind == "sealed":
            self.sealed[self.round] = list(event.sealed.silos)
        elif kind == "dropped":
            self.state[event.dropped.silo] = "away"
        elif kind == "round_closed":
            summary = event.round_closed.summary
            figures = ", ".join(f"{n} {v:.3f}" for n, v in sorted({**summary.training, **summary.evaluation}.items()))
            self.add(f"round {summary.number}: {len(summary.silos)} silos, {figures}")

    def check(self, killed_in_round: int) -> None:
        """Checks that every update accepted before the coordinator was killed counted once.

        Raises:
            EoforgeError: An update was lost, or accepted twice.
        """
        repeated = {n: silos for n, silos in self.accepted.items() if len(set(silos)) < len(silos)}
        lost = set(self.kept) - set(self.sealed.get(killed_in_round, ()))
        if not self.kept or lost or repeated:
            raise EoforgeError(
                f"accepted updates must survive the coordinator; kept {self.kept}, lost {sorted(lost)}, "
                f"twice {repeated}"
            )

    def table(self) -> Table:
        """One row per silo."""
        shown = Table("silo", "patches", "state", "updates", "loss", title=f"round {self.round}", title_justify="left")
        for silo in SILOS:
            loss = f"{self.loss[silo]:.3f}" if silo in self.loss else ""
            shown.add_row(silo, str(self.patches[silo]), self.state[silo], str(self.updates[silo]), loss)
        return shown
