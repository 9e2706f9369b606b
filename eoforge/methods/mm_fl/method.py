"""MM-FL as a method: both sensors, one classifier; codes of one sensor find patches of the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from eoforge.federated.strategies.mm_fl import SENSORS
from eoforge.federated.training.data import NetworkInput, TableData
from eoforge.methods.federated_method import FederatedMethod
from eoforge.methods.mm_fl.config import Config
from eoforge.methods.mm_fl.data import SensorData, images_of_sensors, slots_of
from eoforge.methods.mm_fl.model import MultiModalNetwork
from eoforge.nn.build import seeded

VIEWS: dict[str, tuple[str, ...]] = {"s1": ("s1",), "s2": ("s2",), "both": SENSORS}
"""Sensors that may be available at inference; figures are named ``s1_...``, ``s2_...`` and ``both_...``."""


class MmFlMethod(FederatedMethod):
    """Federated learning on two sensors; a share of patches is a radar and an optical silo, or with ``paired`` one."""

    name = "mm_fl"
    config_type = Config

    def build(self, config: Config) -> MultiModalNetwork:
        return seeded(lambda: MultiModalNetwork(config), config.seed)

    def data(self, config: Config, cells: Sequence[str]) -> Callable[..., TableData]:
        return partial(SensorData, slots=slots_of(cells, config.seed, config.slots))

    def silo_sensors(self, config: Config) -> dict[str, tuple[str, ...]]:
        return {"": SENSORS} if config.mim == "paired" else {f"-{sensor}": (sensor,) for sensor in SENSORS}

    def views(self, config: Config) -> dict[str, NetworkInput]:
        return {f"{view}_": images_of_sensors(sensors) for view, sensors in VIEWS.items()}


METHOD = MmFlMethod()
