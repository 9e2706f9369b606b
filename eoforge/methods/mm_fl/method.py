"""MM-FL for the command line, the pipelines and the services: one process plays coordinator and silos."""

from __future__ import annotations

from typing import Any

from eoforge.data.store import TableRef
from eoforge.methods.fl_rs.checkpoint import Checkpoint
from eoforge.methods.fl_rs.method import FederatedMethod
from eoforge.methods.fl_rs.simulation import Simulated
from eoforge.methods.mm_fl.config import Config
from eoforge.methods.mm_fl.simulation import build_network, play


class MmFlMethod(FederatedMethod):
    """Both sensors; codes of one find the other's."""

    name = "mm_fl"
    config_type: type[Any] = Config

    def build(self, config: Config) -> Any:
        return build_network(config)

    def bands(self, config: Config) -> dict[str, tuple[str, ...]]:
        return config.bands

    def play(self, config: Config, table: TableRef, checkpoint: Checkpoint) -> Simulated:
        return play(config, table, checkpoint)


METHOD = MmFlMethod()
