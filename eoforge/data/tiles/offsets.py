"""Offset of stored reflectances (``BOA_ADD_OFFSET``): known from the product or the user, never assumed.

Since processing baseline 04.00 (January 2022) level-2A products store reflectance x 10,000 + 1,000, and say -1000 in
``BOA_ADD_OFFSET``. Older ones have no offset. Baseline 99.99 marks products of somebody's own processing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from eoforge.data.archives.offset import FIRST_BASELINE
from eoforge.data.bands import S2_BANDS
from eoforge.errors import DataRefused


@dataclass(frozen=True)
class Offsets:
    """Offsets by band, None where they are not known; ``reason`` says why."""

    values: Mapping[str, int] | None
    reason: str = ""

    @classmethod
    def constant(cls, value: int) -> Offsets:
        """One offset for all bands."""
        return cls(dict.fromkeys(S2_BANDS, value))

    @classmethod
    def of_baseline(cls, baseline: int, reason: str) -> Offsets:
        """No offset before baseline 04.00, an unknown one since then."""
        if baseline < FIRST_BASELINE:
            return cls.constant(0)
        return cls(None, f"its processing baseline is {baseline // 100:02d}.{baseline % 100:02d}, and {reason}")

    def known(self, where: str, given: int | None) -> Mapping[str, int]:
        """Offsets by band: those that the user gave, else those of the product.

        Raises:
            DataRefused: Neither is known.
        """
        if given is not None:
            return dict.fromkeys(S2_BANDS, given)
        if self.values is None:
            raise DataRefused(
                f"{where}: the offset of its reflectances is not known: {self.reason}. Say it: --boa-offset -1000 if "
                "the pixels still hold the offset of baseline 04.00 and later, --boa-offset 0 if they do not"
            )
        return self.values
