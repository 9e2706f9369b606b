"""Settings of GRID."""

from __future__ import annotations

from dataclasses import dataclass

from eoforge.methods.noise_robust.config import RobustConfig


@dataclass(frozen=True)
class Config(RobustConfig):
    """See :class:`~eoforge.methods.noise_robust.config.RobustConfig`; ``rate`` is lambda."""
