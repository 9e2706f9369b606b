"""The method object of the reBEN baselines: training of scene labels and of pixel maps, and loading."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from torch import nn

from eoforge.bundle import Bundle
from eoforge.errors import BundleError
from eoforge.methods import TASKS, MapNetwork, Task, encoding
from eoforge.methods.base import ConfiguredMethod
from eoforge.methods.calibration import Calibration
from eoforge.methods.learner import Learner
from eoforge.methods.reben.config import Config
from eoforge.methods.reben.counts import class_counts
from eoforge.methods.reben.learner import PixelLearner, RebenLearner, SceneLearner
from eoforge.methods.reben.model import build
from eoforge.methods.run import Normalisation, Recipe, train_run
from eoforge.nn.build import choose_device, seeded
from eoforge.nn.classifier import Network
from eoforge.storage.addresses import TableRef

_CARDS = {
    "scene": "Multi-label land-cover classification of patches: the 19 classes of BigEarthNet.",
    "pixels": "Land cover per pixel: the 19 classes of BigEarthNet, trained on CORINE reference maps.",
}
_TASKS = {"scene": Task.CLASSIFY, "pixels": Task.SEGMENT}


class RebenMethod(ConfiguredMethod):
    """See :class:`eoforge.methods.Classifies` and :class:`eoforge.methods.Segments`; its bundles have no codes."""

    name = "reben"
    config_type = Config

    def train(self, data: TableRef, out: str, config: Any, *, resume: bool = True) -> Bundle:
        self.require_own(config)
        data = data.pinned()

        def learner(normalisation: Normalisation) -> Learner:
            kind = SceneLearner if config.task == "scene" else PixelLearner
            counts = class_counts(data, config.task) if config.positive_weight else None
            return kind(config, normalisation, counts)

        recipe = Recipe(
            method=self.name,
            bands=config.sensor_bands,
            learner=learner,
            network=lambda learner: cast("RebenLearner", learner).network,
            facts=lambda _: facts_of(config),
            card=_CARDS[config.task],
            read={
                "modalities": tuple(config.sensor_bands),
                "reference_map": config.task == "pixels",
                "labelled": True,
            },
            calibrate=calibrate,
        )
        return train_run(recipe, data, out, config, resume=resume)

    def classifier(self, bundle: Bundle, device: str | None = None) -> Network:
        """See :class:`eoforge.methods.Classifies`."""
        return cast("Network", self._trained(bundle, "scene", device))

    def segmenter(self, bundle: Bundle, device: str | None = None) -> MapNetwork:
        """See :class:`eoforge.methods.Segments`."""
        return cast("MapNetwork", self._trained(bundle, "pixels", device))

    def _trained(self, bundle: Bundle, task: str, device: str | None) -> nn.Module:
        encoding.require_method(bundle, self.name)
        config = encoding.settings_of(bundle, Config, self.name)
        if config.task != task:
            raise BundleError(f"{bundle.uri} was trained for the task {config.task!r}; expected {task!r}")
        encoding.require_facts(bundle, facts_of(config))
        encoding.bands_of(bundle, config.sensor_bands)
        network = seeded(lambda: build(config), config.seed)
        encoding.load_weights(network, bundle)
        return network.to(choose_device(device)).eval()


def facts_of(config: Config) -> dict[str, Any]:
    """Entries of ``config.json`` by which a bundle is checked."""
    return {TASKS: [_TASKS[config.task].value], "interpolation": config.interpolation}


def calibrate(learner: Learner, validation: Iterable[Any]) -> dict[str, Any]:
    """Entry of ``config.json`` with the calibration of a trained learner on the validation split."""
    trained = cast("RebenLearner", learner).to(choose_device(None)).eval()
    logits, labels = trained.scene_logits(batch.to(choose_device(None)) for batch in validation)
    learner.cpu()
    return Calibration.fit(logits, labels).facts()


METHOD = RebenMethod()
