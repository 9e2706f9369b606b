"""The method object of GRID."""

from __future__ import annotations

from eoforge.methods.grid.config import Config
from eoforge.methods.noise_robust.method import RobustMethod
from eoforge.methods.noise_robust.settings import GRID

METHOD = RobustMethod(
    GRID,
    Config,
    "Land-cover classes of patches, learned from labels that are partly wrong (GRID): samples whose labels look wrong "
    "teach the backbone by a generative head, the others by the task head.",
)
