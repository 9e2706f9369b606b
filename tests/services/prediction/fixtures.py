"""Fixtures of the prediction tests: patches, and untrained bundles of the reBEN baselines with a calibration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.services.prediction import untrained_bundle
from eoforge.bundle import Bundle
from eoforge.data.bands import GROUPS
from eoforge.data.records import PatchPair
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.methods.reben.config import Config
from services._runtime.server import Server
from services.prediction.server import build
from services.prediction.settings import PredictionSettings
from services.prediction.state import Served, load

PATCHES = 10
SCENES = replace(Config.tiny(), width=8, size=40, backbone="tiny")
MAPS = replace(Config.tiny(), task="pixels", backbone="test_resnet", size=40, sensors="s2")


@dataclass(frozen=True)
class PredictionFixture:
    """Bundles as the service loads them, and patches."""

    bundles: tuple[Bundle, ...]
    predictors: dict[str, Served]
    pairs: tuple[PatchPair, ...]

    def columns(self, key: str, patches: slice = slice(0, 3)) -> dict[str, Any]:
        """Inputs of the model of these sensors."""
        needed = self.predictors[key].groups
        return {g.column: np.stack([getattr(p, g.column) for p in self.pairs[patches]]) for g in GROUPS if g in needed}


def make_prediction_fixture(folder: Path) -> PredictionFixture:
    """Writes the bundles below ``folder``: labels from radar and from both sensors, maps from optical images."""
    configs = (SCENES, replace(SCENES, sensors="s1", seed=3), MAPS)
    bundles = tuple(untrained_bundle(str(folder / "runs"), config) for config in configs)
    predictors = load(PredictionSettings(bundle_uris=",".join(bundle.uri for bundle in bundles)))
    return PredictionFixture(bundles, predictors, tuple(synthetic_pairs(PATCHES, seed=12)))


def prediction_server(made: PredictionFixture, **values: Any) -> Callable[[], Server]:
    """A maker of servers for ``running``."""
    defaults: dict[str, Any] = {
        "bundle_uris": made.bundles[0].uri,
        "port": 0,
        "rest_port": 0,
        "drain_notice_seconds": 0.0,
        "drain_seconds": 10.0,
    }
    return lambda: build(PredictionSettings(**(defaults | values)), made.predictors)
