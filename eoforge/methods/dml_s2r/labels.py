"""Choice of the labelled patches, their folds, and the batches that hold labelled and unlabelled patches.

Shape legend: N labelled patches, T patches of the training split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from eoforge.data.loading.batch import PatchBatch
from eoforge.data.loading.loader import PatchLoader
from eoforge.data.targets import patches_of, read_file, read_target
from eoforge.errors import DataRefused
from eoforge.methods.dml_s2r.config import Config
from eoforge.nn.seeds import derive_seed
from eoforge.storage.addresses import TableRef

LEAST = 6
"""Labelled patches that a training needs."""
LEAST_HELD = 2
SCORED = 10
"""Labelled patches with an error of a network that did not see them, from which on these choose the epoch; with fewer
the last one is kept."""
Rows = npt.NDArray[np.int64]
_NONE = -1


@dataclass(frozen=True)
class Labelled:
    """Labelled patches.

    Attributes:
        patches: Ids ``[N]``.
        values: Their targets ``[N]``, in the unit of the target.
        folds: Number of the fold of each, int ``[N]``; -1 for patches that every network sees.
        left_out: For each network the fold whose labels it does not see, or None; the first network is kept.
        facts: Counts, for ``config.json``.
    """

    patches: tuple[str, ...]
    values: npt.NDArray[np.float64]
    folds: Rows
    left_out: tuple[int | None, ...]
    facts: dict[str, Any]

    @classmethod
    def choose(cls, values: dict[str, float], config: Config, facts: dict[str, Any]) -> Labelled:
        """Labelled patches of a training, with folds, or one held-out part, that are drawn by the seed.

        Raises:
            DataRefused: There are too few of them.
        """
        names = tuple(values)
        if len(names) < LEAST:
            raise DataRefused(
                f"training needs at least {LEAST} labelled patches of the training split; got {len(names)} with a "
                f"value of {config.target}. Label more, or raise labels (now {config.labels:g})"
            )
        order = {name: place for place, name in enumerate(_drawn(names, len(names), "held out", config.seed))}
        places = np.array([order[name] for name in names])
        left_out: tuple[int | None, ...]
        if config.folds:
            count = min(config.folds, len(names))
            folds, left_out = places % count, (None, *range(count))
        else:
            held = max(LEAST_HELD, round(config.holdout * len(names)))
            folds, left_out = np.where(places < held, 0, _NONE), (0,)
        known = {
            "labelled": len(names),
            "folds": len(left_out) - 1 if config.folds else 0,
            "scored": int((folds != _NONE).sum()),
        }
        return cls(names, np.array(list(values.values()), dtype=np.float64), folds, left_out, {**known, **facts})

    def scale(self, left_out: int | None) -> tuple[float, float]:
        """Mean and deviation of the values that a network sees, by which its targets are standardised."""
        seen = self.values if left_out is None else self.values[self.folds != left_out]
        return float(seen.mean()), float(seen.std()) or 1.0

    def standardised(self, left_out: int | None) -> dict[str, float]:
        """Patch id -> standardised target of the patches whose labels a network sees."""
        mean, deviation = self.scale(left_out)
        return {
            name: (float(value) - mean) / deviation
            for name, value, fold in zip(self.patches, self.values, self.folds.tolist(), strict=True)
            if left_out is None or fold != left_out
        }

    def trained(self) -> list[str]:
        """Ids of the patches whose labels any network sees: all, but for a held-out part."""
        return [name for name, fold in zip(self.patches, self.folds, strict=True) if self.left_out != (fold,)]

    def truth(self, names: Sequence[str]) -> npt.NDArray[np.float64]:
        """Targets of the named patches, in the unit of the target."""
        return self.values[self._rows(names)]

    def in_fold(self, names: Sequence[str], fold: int | None) -> npt.NDArray[np.bool_]:
        """Which of the named patches are in a fold; none for None."""
        inside: npt.NDArray[np.bool_] = self.folds[self._rows(names)] == fold
        return inside if fold is not None else np.zeros(len(names), dtype=bool)

    def _rows(self, names: Sequence[str]) -> list[int]:
        rows = {name: row for row, name in enumerate(self.patches)}
        return [rows[name] for name in names]


def _drawn(names: Sequence[str], count: int, purpose: str, seed: int) -> list[str]:
    return sorted(names, key=lambda name: derive_seed(purpose, seed, name))[:count]


def labelled_patches(data: TableRef, config: Config) -> Labelled:
    """The labelled patches of the training split.

    The share ``labels`` is drawn first, by seed and id; targets of the table are then read for these patches alone.

    Raises:
        NotFound: The file of labels does not exist.
        DataRefused: There are too few values, or the file or a value is refused.
        UsageError: The table has no such target.
    """
    target = config.described_target()
    if config.labels_file:
        skip = config.unknown_ids == "skip"
        found = read_file(data, target, config.labels_file, "train", digest=config.labels_digest, skip_unknown=skip)
        names = list(found.values)
        chosen = _drawn(names, _count(names, config), "labelled", config.seed)
        values = {name: found.values[name] for name in chosen}
    else:
        names = patches_of(data, "train")
        chosen = _drawn(names, _count(names, config), "labelled", config.seed)
        found = read_target(data, target, chosen)
        values = found.values
    facts = {"missing": found.missing, "clipped": found.clipped}
    return Labelled.choose(values, config, facts | ({"file": asdict(found.file)} if found.file else {}))


def _count(names: Sequence[str], config: Config) -> int:
    return max(LEAST, round(config.labels * len(names)))


def mixed_rows(labelled: Rows, everything: Rows, total: int, part: float, *key: int) -> Rows:
    """Rows of one batch: labelled ones, then others of the training split without a repetition.

    Args:
        labelled: Rows of the labelled patches that train.
        everything: Rows of the training split.
        total: Rows of the batch at most. A batch of labelled rows alone is smaller where there are fewer of them.
        part: Share of the batch that is labelled; 1 draws no other row.
        key: Seed, epoch and number of the batch, of which the draw is a function.
    """
    rng = np.random.Generator(np.random.Philox(key=derive_seed("mixed", *key)))
    known = rng.permutation(labelled)[: max(2, round(part * total))]
    if part >= 1:
        return known
    others = rng.choice(everything, min(total, len(everything)), replace=False)
    return np.concatenate([known, others[~np.isin(others, known)][: total - len(known)]])


class ChosenLoader(PatchLoader):
    """Loader of the named patches.

    Args:
        chosen: Ids of the patches.
        arguments: As those of :class:`PatchLoader`.
    """

    def __init__(self, *arguments: Any, chosen: Sequence[str], **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._everything = self._rows
        self._rows = self._rows[np.isin(self._ids(), np.array(chosen))]

    def _ids(self) -> npt.NDArray[np.str_]:
        ids = self._table.here.to_table(columns=["patch_id"]).column("patch_id").to_numpy()[self._rows]
        return ids.astype(str)


class MixedLoader(ChosenLoader):
    """Loader of training batches: labelled patches, and others in the epochs that use them.

    A batch is a function of seed, epoch and number, so that a resumed run reads the same ones.

    Args:
        config: Says which epoch uses which patches.
        arguments: As those of :class:`ChosenLoader`; ``chosen`` are the labelled patches that train.
    """

    def __init__(self, *arguments: Any, config: Config, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._config, self._labelled, self._rows = config, self._rows, self._everything

    def __iter__(self) -> Iterator[PatchBatch]:
        self._done, self._resume_at = self._resume_at, 0
        for batch in self._fetch(self._batch(number) for number in range(self._done, len(self))):
            self._done += 1
            yield batch

    def _batch(self, number: int) -> Rows:
        total, part = self.batch_size * self._world_size, self._config.labelled_part(self._epoch)
        rows = mixed_rows(self._labelled, self._everything, total, part, self.seed, self._epoch, number)
        # All ranks take equally many, because they exchange their features.
        even = len(rows) // self._world_size * self._world_size
        return np.sort(rows[:even][self._rank :: self._world_size])
