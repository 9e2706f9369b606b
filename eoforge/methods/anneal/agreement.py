"""Agreement of annotators: Cohen's kappa, and the pairs on which they disagree."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eoforge.methods.anneal.annotations import Annotations, Answer, Pair


def cohen_kappa(one: Sequence[bool], other: Sequence[bool]) -> float | None:
    """Cohen's kappa of two lists of decisions about the same pairs, ``(p_o - p_e) / (1 - p_e)``.

    Source: Cohen, "A coefficient of agreement for nominal scales" (1960).

    Returns:
        At most 1; 0 is the agreement of chance. None without a pair, or if both always gave the same single answer,
        where it is not defined.
    """
    if not one:
        return None
    count = len(one)
    observed = sum(a == b for a, b in zip(one, other, strict=True)) / count
    mine, theirs = sum(one) / count, sum(other) / count
    expected = mine * theirs + (1 - mine) * (1 - theirs)
    return None if expected == 1 else (observed - expected) / (1 - expected)


@dataclass(frozen=True)
class Disagreement:
    """A pair that one annotator calls similar and another one dissimilar.

    Attributes:
        pair: The two patches.
        answers: Answer by annotator.
        adjudicated: The final answer, if there is one.
    """

    pair: Pair
    answers: Mapping[str, Answer]
    adjudicated: Answer | None


@dataclass(frozen=True)
class Kappa:
    """Agreement of two annotators.

    Attributes:
        annotators: Their names.
        pairs: Number of pairs that both decided.
        value: Cohen's kappa; None where it is not defined.
    """

    annotators: tuple[str, str]
    pairs: int
    value: float | None


@dataclass(frozen=True)
class Agreement:
    """Agreement within a session.

    Attributes:
        pairs: The pairs in dispute, those without an adjudication first.
        kappas: Of every two annotators with common pairs.
    """

    pairs: tuple[Disagreement, ...]
    kappas: tuple[Kappa, ...]

    @property
    def kappa(self) -> float | None:
        """Mean of the kappas, weighted by their numbers of pairs; None if none is defined."""
        defined = [(k.value, k.pairs) for k in self.kappas if k.value is not None]
        return sum(value * pairs for value, pairs in defined) / sum(p for _, p in defined) if defined else None

    @property
    def unresolved(self) -> int:
        """Number of pairs that wait for an adjudication."""
        return sum(pair.adjudicated is None for pair in self.pairs)


def agreement(annotations: Annotations) -> Agreement:
    """Agreement of the decisions that stand; who skips a pair decides nothing."""
    disputed = []
    common: dict[tuple[str, str], list[tuple[bool, bool]]] = {}
    for pair, votes in sorted(annotations.votes.items()):
        decided = {who: row.answer for who, row in sorted(votes.items()) if row.answer is not Answer.SKIP}
        if len(set(decided.values())) > 1:
            final = annotations.adjudicated.get(pair)
            disputed.append(Disagreement(pair, decided, final.answer if final else None))
        for a, b in itertools.combinations(decided, 2):
            both = (decided[a] is Answer.SIMILAR, decided[b] is Answer.SIMILAR)
            common.setdefault((a, b), []).append(both)
    kappas = [Kappa(who, len(both), cohen_kappa(*zip(*both, strict=True))) for who, both in sorted(common.items())]
    return Agreement(tuple(sorted(disputed, key=lambda d: d.adjudicated is not None)), tuple(kappas))
