"""The method objects of GRID and RS-IRL-SVAE: training from a table whose labels may be wrong, and loading."""

from __future__ import annotations

from typing import Any, cast

from eoforge.bundle import Bundle
from eoforge.data.noise.derived import training_labels
from eoforge.errors import BundleError
from eoforge.index.encoder import Encoder
from eoforge.methods import TASKS, MapNetwork, Task, encoding
from eoforge.methods.base import HashMethod, facts_of
from eoforge.methods.noise_robust.config import RobustConfig
from eoforge.methods.noise_robust.learner import RobustLearner, learner_of
from eoforge.methods.noise_robust.model import RobustNetwork, RobustSceneNetwork, build
from eoforge.methods.reben.method import calibrate
from eoforge.methods.run import Recipe, train_run
from eoforge.nn.build import choose_device, seeded
from eoforge.nn.classifier import Network
from eoforge.storage.addresses import TableRef, open_table


class RobustMethod(HashMethod):
    """See :class:`eoforge.methods.Method`, :class:`~eoforge.methods.Classifies` and :class:`~eoforge.methods.Segments`.

    Args:
        name: ``grid`` or ``rs_irl_svae``.
        config_type: Its settings.
        card: First paragraph of the model card.
    """

    def __init__(self, name: str, config_type: type[RobustConfig], card: str) -> None:
        self.name, self.config_type, self._card = name, config_type, card

    def train(self, data: TableRef, out: str, config: Any, *, resume: bool = True) -> Bundle:
        self.require_own(config)
        data = data.pinned()
        patches, _ = training_labels(open_table(data))
        recipe = Recipe(
            method=self.name,
            bands=config.sensor_bands,
            learner=learner_of(self.name, config, patches),
            network=lambda learner: cast("RobustLearner", learner).network,
            facts=lambda learner: _facts(config, cast("RobustLearner", learner).network),
            card=_RELATIONS_CARD if config.task == "relations" else self._card,
            read={
                "modalities": tuple(config.sensor_bands),
                "reference_map": config.task != "scene",
                "labelled": True,
            },
            calibrate=None if config.task == "relations" else calibrate,
        )
        return train_run(recipe, data, out, config, resume=resume)

    def build(self, config: RobustConfig) -> RobustNetwork:
        return seeded(lambda: build(config), config.seed)

    def load(self, bundle: Bundle, device: str | None = None) -> Encoder:
        self._require(bundle, Task.ENCODE)
        return super().load(bundle, device)

    def untrained(self, bundle: Bundle, seed: int | None = None, device: str | None = None) -> Encoder:
        self._require(bundle, Task.ENCODE)
        return super().untrained(bundle, seed, device)

    def classifier(self, bundle: Bundle, device: str | None = None) -> Network:
        """See :class:`eoforge.methods.Classifies`."""
        return cast("Network", self._network(bundle, Task.CLASSIFY, device))

    def segmenter(self, bundle: Bundle, device: str | None = None) -> MapNetwork:
        """See :class:`eoforge.methods.Segments`."""
        return cast("MapNetwork", self._network(bundle, Task.SEGMENT, device))

    def _network(self, bundle: Bundle, task: Task, device: str | None) -> RobustNetwork:
        self._require(bundle, task)
        network, config = self._trained(bundle)
        encoding.require_facts(bundle, _facts(config, network))
        encoding.bands_of(bundle, config.sensor_bands)
        trained: RobustNetwork = network.to(choose_device(device)).eval()
        return trained

    def _require(self, bundle: Bundle, task: Task) -> None:
        encoding.require_method(bundle, self.name)
        tasks = _tasks(self._config_of(bundle))
        if task not in tasks:
            raise BundleError(f"{bundle.uri} can {' and '.join(tasks)}; {task} is none of it")


_RELATIONS_CARD = (
    "Features of patches that know which land-cover regions lie beside which, learned from maps that are partly wrong. "
    "For retrieval; it classifies nothing."
)


def _tasks(config: RobustConfig) -> list[Task]:
    if config.task == "pixels":
        return [Task.SEGMENT]
    if config.task == "relations":
        return [Task.ENCODE]
    return [Task.ENCODE, Task.CLASSIFY] if len(config.sensor_bands) == 1 else [Task.CLASSIFY]


def _facts(config: RobustConfig, network: RobustNetwork) -> dict[str, Any]:
    facts = {TASKS: [task.value for task in _tasks(config)], "interpolation": config.interpolation}
    return {**facts_of(config, network), **facts} if isinstance(network, RobustSceneNetwork) else facts
