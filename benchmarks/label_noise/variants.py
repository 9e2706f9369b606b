"""The rows of the table: a name, its objective, and the settings that differ from the defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.label_noise.samples import Samples
from eoforge.methods.noise_robust.settings import COLLABORATIVE, GRID, OBJECTIVES, REMEMBERING, SVAE, NoiseSettings

LATENT = 32
"""Half of the features, which are 64; the released configuration has 128 of 1,024."""


@dataclass(frozen=True)
class Variant:
    """A row.

    Attributes:
        objective: One of ``OBJECTIVES``.
        changes: Settings beside the defaults.
        by_label: Whether scenes of several labels and maps are judged label by label and pixel by pixel.
    """

    objective: str
    changes: dict[str, Any] = field(default_factory=dict)
    by_label: bool = False

    def settings(self, samples: Samples) -> NoiseSettings:
        """Settings for a data set."""
        unit = {"unit": "label"} if self.by_label and samples.target != "single" else {}
        return NoiseSettings(**{"latent": LATENT, **self.changes, **unit})

    def takes(self, samples: Samples) -> bool:
        """Whether the objective takes such labels."""
        adaptive_pixels = self.by_label and self.changes.get("adaptive", False)
        return samples.target != "pixels" or not (self.objective in REMEMBERING or adaptive_pixels)


VARIANTS: dict[str, Variant] = {
    **{name: Variant(name) for name in OBJECTIVES},
    "grid_adaptive": Variant(GRID, {"joint": True, "adaptive": True, "start_epochs": 3}, by_label=True),
    "rs_irl_svae_labels": Variant(
        SVAE,
        {"importance": "joint_power", "kappa": 4.0, "divergence_weight": 0.01, "start_epochs": 3},
        by_label=True,
    ),
}
EQUAL_COST = tuple(name for name in OBJECTIVES if name not in (*COLLABORATIVE, GRID, SVAE))
"""Baselines that train one network once."""
