"""Served predictors, loaded once at the start."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import structlog
import torch

from eoforge.bundle import load_bundle
from eoforge.data.bands import GROUP_OF, GROUPS, BandGroup
from eoforge.data.loading.batch import PatchBatch
from eoforge.errors import UsageError
from eoforge.methods.prediction import open_predictor
from services.prediction.settings import PredictionSettings

if TYPE_CHECKING:
    from services.prediction.outputs import AnyPredictor

log = structlog.get_logger("predictors")
Columns = dict[str, np.ndarray]
"""Column of ``patches.lance`` -> pixels of one patch ``[C, H, W]`` on its native grid."""


@dataclass(frozen=True)
class Served:
    """Predictor of one choice of sensors.

    Attributes:
        sensors: Sensors of the input.
        predictor: Predictor of a bundle, which may read further sensors in other choices.
        bundle_id: Id of the bundle.
    """

    sensors: tuple[str, ...]
    predictor: AnyPredictor
    bundle_id: str

    @property
    def key(self) -> str:
        """Part of the model's name: ``s1``, ``s2`` or ``s1s2``."""
        return "".join(self.sensors)

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands of the network."""
        return tuple(band for sensor in self.sensors for band in self.predictor.bands[sensor])

    @property
    def groups(self) -> tuple[BandGroup, ...]:
        """Columns with those bands."""
        needed = {GROUP_OF[band] for band in self.bands}
        return tuple(group for group in GROUPS if group in needed)


def load(settings: PredictionSettings) -> dict[str, Served]:
    """Predictors by the part of their name, each warmed up by a patch, because the first call is by far the slowest.

    Raises:
        NotFound: A bundle does not exist.
        BundleError: A bundle is damaged.
        UsageError: A bundle can neither classify nor segment nor regress, or two bundles read the same sensors.
    """
    found: dict[str, Served] = {}
    for uri in settings.bundles:
        bundle = load_bundle(uri)
        predictor = open_predictor(bundle, settings.device or "cpu")
        choices = [predictor.sensors]
        if predictor.alone and len(predictor.sensors) > 1:
            choices += [(sensor,) for sensor in predictor.sensors]
        for sensors in choices:
            served = Served(sensors, predictor, bundle.id)
            if served.key in found:
                other = found[served.key].bundle_id[:16]
                raise UsageError(
                    f"two bundles of EOFORGE_BUNDLE_URIS read {' and '.join(sensors)}: {other} and {bundle.short_id}; "
                    "serve one of them here and the other by a service of its own"
                )
            found[served.key] = served
            predictor.predict(batch_of([blank(served.groups)]), sensors)
        log.info("bundle loaded", bundle=bundle.short_id, method=str(bundle.config["method"]))
    return found


def blank(groups: Iterable[BandGroup]) -> Columns:
    """Patch of zeros."""
    return {group.column: np.zeros(group.shape, dtype=group.dtype) for group in groups}


def batch_of(patches: list[Columns]) -> PatchBatch:
    """Patches as the batch that predictors take."""
    columns = {
        group.column: torch.from_numpy(np.stack([patch[group.column] for patch in patches]))
        if group.column in patches[0]
        else None
        for group in GROUPS
    }
    return PatchBatch(
        patch_id=[""] * len(patches),
        s2_10m=columns["s2_10m"],
        s2_20m=columns["s2_20m"],
        s2_60m=columns["s2_60m"],
        s1=columns["s1"],
        label_mask=torch.zeros(len(patches), dtype=torch.int64),
    )
