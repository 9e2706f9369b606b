"""FL-RS as a method: the strategies for one sensor, around one classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter

from eoforge.data.labels import NUM_CLASSES
from eoforge.federated.strategies.registry import strategy_type
from eoforge.federated.training.data import NetworkInput, TableData
from eoforge.methods.federated_method import FederatedMethod
from eoforge.methods.fl_rs.config import Config
from eoforge.nn.build import seeded
from eoforge.nn.classifier import Classifier


class FlRsMethod(FederatedMethod):
    """Federated learning on one sensor; a share of patches is one silo."""

    name = "fl_rs"
    config_type = Config

    def build(self, config: Config) -> Classifier:
        projection = strategy_type(config.algorithm).projection
        return seeded(
            lambda: Classifier(
                config.backbone, len(config.bands), config.size, config.width, projection, config.bits, NUM_CLASSES
            ),
            config.seed,
        )

    def data(self, config: Config, cells: Sequence[str]) -> Callable[..., TableData]:
        return TableData

    def silo_sensors(self, config: Config) -> dict[str, tuple[str, ...]]:
        return {"": (config.modality,)}

    def views(self, config: Config) -> dict[str, NetworkInput]:
        return {"": itemgetter(config.modality)}


METHOD = FlRsMethod()
