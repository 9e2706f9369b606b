"""Fixed facts of an annotation session, and its state as it follows from batches and annotations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from eoforge.config import from_dict
from eoforge.data.tables.commit import table_identity
from eoforge.errors import DamagedObject, DataRefused, UsageError
from eoforge.methods.anneal.agreement import agreement
from eoforge.methods.anneal.annotations import Annotations, Pair
from eoforge.methods.anneal.config import Config
from eoforge.methods.anneal.round_files import MALFORMED, Round, RoundFigures
from eoforge.storage.addresses import TableRef, join, open_table, relative_to, resolve

SETTINGS = "session.json"
State = Literal["new", "answering", "ready", "finished"]


@dataclass(frozen=True)
class Settings:
    """Fixed facts of a session.

    Attributes:
        patches: The patches, at a version.
        config: Settings of the method; ``config.budget`` is the number of decisions.
        votes: Annotators who answer each pair; from 2 on, agreement is measured.
        ahead: Share of a batch whose answers suffice to choose the next one, while people answer the rest.
    """

    patches: TableRef
    config: Config
    votes: int = 1
    ahead: float = 1.0

    def __post_init__(self) -> None:
        """Checks of ranges.

        Raises:
            UsageError: A value is out of range.
        """
        if self.votes < 1:
            raise UsageError(f"votes must be at least 1; got {self.votes}")
        if not 0 < self.ahead <= 1:
            raise UsageError(f"ahead must be more than 0 and at most 1; got {self.ahead}")

    def dump(self, address: str) -> bytes:
        """JSON for the session at ``address``; the patches are named relative to its file, so that both can move."""
        patches = {
            "uri": relative_to(self.patches.uri, join(address, SETTINGS)),
            "version": self.patches.version,
            "identity": table_identity(open_table(self.patches)),
        }
        content = {"patches": patches, "config": asdict(self.config), "votes": self.votes, "ahead": self.ahead}
        return (json.dumps(content, indent=2) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes, address: str) -> Settings:
        """Settings of :meth:`dump`.

        Raises:
            NotFound: The patches are gone.
            DataRefused: Another table is at the address of the patches.
            DamagedObject: The bytes are no settings of a session.
        """
        try:
            content = json.loads(data)
            patches, identity = content["patches"], content["patches"]["identity"]
            ref = TableRef(resolve(patches["uri"], join(address, SETTINGS)), int(patches["version"]))
            settings = cls(ref, from_dict(Config, content["config"]), content["votes"], content["ahead"])
        except MALFORMED as error:
            raise DamagedObject(f"the settings of the session at {address} cannot be read: {error}") from error
        found = table_identity(open_table(ref))
        if identity and found and identity != found:
            raise DataRefused(
                f"{ref} is another table than the one that is annotated: expected the table that was created as "
                f"{identity}, got {found}"
            )
        return settings

    def is_open(self, pair: Pair, annotations: Annotations) -> bool:
        """Whether a pair of a batch waits for an answer."""
        return pair not in annotations.adjudicated and len(annotations.votes.get(pair, ())) < self.votes

    def state(self, rounds: Sequence[Round], annotations: Annotations) -> State:
        """State of the session; see :class:`Status`."""
        if not rounds:
            return "new"
        newest = rounds[-1]
        if newest.final:
            return "finished"
        waiting = [pair for each in rounds for pair in each.pairs if self.is_open(pair, annotations)]
        if not self.pairs_left(rounds, annotations):  # the final model is to learn from all answers
            return "answering" if waiting else "ready"
        closed = len(newest.pairs) - len(newest.members.intersection(waiting))
        return "ready" if closed >= len(newest.pairs) * self.ahead else "answering"

    def pairs_left(self, rounds: Sequence[Round], annotations: Annotations) -> int:
        """Number of pairs for which the budget has decisions, beside the pairs that wait for answers."""
        waiting = [pair for each in rounds for pair in each.pairs if self.is_open(pair, annotations)]
        pending = sum(self.votes - len(annotations.votes.get(pair, ())) for pair in waiting)
        return max(0, (self.config.budget - annotations.decisions - pending) // self.votes)


@dataclass(frozen=True)
class Status:
    """State of a session.

    Attributes:
        state: "new" before the first batch, "answering", "ready" when the next batch can be chosen, "finished" when
            the budget is spent and the final model is there.
        iteration: Number of the newest batch; -1 before the first.
        open: Pairs of all batches that wait for answers.
        answered: Decisions so far.
        budget: Decisions in all.
        annotators: Answers that stand, by annotator, with "skip".
        disagreements: Pairs that wait for an adjudication.
        kappa: Cohen's kappa, the mean over every two annotators; None without common pairs.
        rounds: Figures of each model, with its gain over the one before.
        bundle: Address of the bundle of the final model; empty before.
    """

    state: State
    iteration: int
    open: int
    answered: int
    budget: int
    annotators: dict[str, int]
    disagreements: int
    kappa: float | None
    rounds: tuple[RoundFigures, ...]
    bundle: str

    @property
    def remaining(self) -> int:
        """Decisions that are left."""
        return max(0, self.budget - self.answered)

    @classmethod
    def of(cls, settings: Settings, rounds: Sequence[Round], annotations: Annotations, address: str) -> Status:
        """State after these batches and annotations of the session at ``address``."""
        agreed = agreement(annotations)
        answers = annotations.answers
        return cls(
            state=settings.state(rounds, annotations),
            iteration=len(rounds) - 1,
            open=sum(settings.is_open(pair, annotations) for each in rounds for pair in each.pairs),
            answered=annotations.decisions,
            budget=settings.config.budget,
            annotators={who: sum(row.who == who for row in answers) for who in sorted({row.who for row in answers})},
            disagreements=agreed.unresolved,
            kappa=agreed.kappa,
            rounds=RoundFigures.of(rounds),
            bundle=rounds[-1].bundle_address(address) if rounds else "",
        )
