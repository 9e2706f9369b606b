"""MM-FL for the command line, the pipelines and the services: one process plays coordinator and silos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eoforge.federated.strategy import LocalTrainer
from eoforge.federated.training.checkpoint import Checkpoint
from eoforge.federated.training.outcome import Normalisation
from eoforge.federated.training.simulation import Simulated
from eoforge.methods.fl_rs.method import FederatedMethod
from eoforge.methods.mm_fl.config import Config
from eoforge.methods.mm_fl.simulation import build_network, play, silo_trainer
from eoforge.storage.addresses import TableRef


class MmFlMethod(FederatedMethod):
    """Both sensors; codes of one find the other's."""

    name = "mm_fl"
    config_type: type[Any] = Config

    def build(self, config: Config) -> Any:
        return build_network(config)

    def bands(self, config: Config) -> dict[str, tuple[str, ...]]:
        return config.bands

    def strategy(self, config: Config) -> tuple[str, dict[str, Any]]:
        return self.name, config.options()

    def silo_trainer(
        self,
        config: Config,
        table: TableRef,
        silo: str,
        sensors: Sequence[str],
        normalisation: Normalisation,
        device: str | None = None,
    ) -> LocalTrainer:
        return silo_trainer(config, table, silo, sensors, normalisation, device)

    def play(self, config: Config, table: TableRef, checkpoint: Checkpoint) -> Simulated:
        return play(config, table, checkpoint)


METHOD = MmFlMethod()
