"""Batches of a session as they are stored, and the figures of their models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from eoforge.errors import DamagedObject, UsageError
from eoforge.methods.anneal.annotations import Pair
from eoforge.storage.addresses import join, relative_to, resolve

MALFORMED = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, UsageError)
"""Errors of reading what was stored where the bytes are something else."""
FOLDER = "rounds"
"""Folder of the batches in a session."""


@dataclass(frozen=True)
class Round:
    """A batch of pairs.

    Attributes:
        iteration: Its number, from 0.
        pairs: The pairs, most uncertain first; none if the budget is spent.
        model: Address of the weights that chose them, relative to the session; empty for the first batch, which is
            chosen by the initial embedding.
        annotations: Version of the annotations that the model was trained on; 0 for the first batch.
        figures: Figures of the model; ``score`` is the one that rounds are compared by.
        final: Whether it ends the session.
        bundle: Address of the bundle of a final model, relative to the file of the batch where it can be.
    """

    iteration: int
    pairs: tuple[Pair, ...]
    model: str = ""
    annotations: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)
    final: bool = False
    bundle: str = ""

    @cached_property
    def members(self) -> frozenset[Pair]:
        """The pairs as a set."""
        return frozenset(self.pairs)

    def with_bundle(self, bundle: str, session: str) -> Round:
        """The batch with the address of its bundle."""
        return replace(self, bundle=relative_to(bundle, join(session, FOLDER)) if bundle else "")

    def bundle_address(self, session: str) -> str:
        """Absolute address of the bundle; empty without one."""
        return resolve(self.bundle, join(session, FOLDER))

    def dump(self) -> bytes:
        """JSON of the batch."""
        content = asdict(self) | {"pairs": [[pair.first, pair.second] for pair in self.pairs]}
        return (json.dumps(content, indent=1) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes, where: str) -> Round:
        """The batch of :meth:`dump`.

        Raises:
            DamagedObject: The bytes are no batch.
        """
        try:
            content: dict[str, Any] = json.loads(data)
            pairs = tuple(Pair.of(str(first), str(second)) for first, second in content["pairs"])
            figures = {str(name): float(value) for name, value in content.get("figures", {}).items()}
            found = cls(**{**content, "pairs": pairs, "figures": figures, "iteration": int(content["iteration"])})
            if not (isinstance(found.model, str) and isinstance(found.bundle, str)):
                raise TypeError("expected addresses as texts")
            return found
        except MALFORMED as error:
            raise DamagedObject(f"{where} is no batch of pairs: {error}") from error


@dataclass(frozen=True)
class RoundFigures:
    """Figures of the model that a batch was chosen by.

    Attributes:
        iteration: Number of the batch.
        figures: See :class:`Round`.
        score: Its score; None if it has none.
        gain: Difference to the score of the batch before; None for the first.
    """

    iteration: int
    figures: Mapping[str, float]
    score: float | None
    gain: float | None

    @classmethod
    def of(cls, rounds: Sequence[Round]) -> tuple[RoundFigures, ...]:
        """Figures of all batches."""
        found: list[RoundFigures] = []
        before: float | None = None
        for each in rounds:
            score = each.figures.get("score")
            gain = None if score is None or before is None else score - before
            found.append(cls(each.iteration, each.figures, score, gain))
            before = score
        return tuple(found)
