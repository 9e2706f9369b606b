"""Flower's side of the comparison: FedAvg over silos that do no work.

``rounds.jsonl`` in the run's folder gets a line with the seconds of every round, from its configuration to its average,
as in ours; ``answered-<node>`` says that a silo has answered in the last round, in which ``held`` silos wait for a file
``go``.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

TENSOR_ELEMENTS = 5 << 20 >> 2
server = ServerApp()
client = ClientApp()


class Timed(FedAvg):
    """FedAvg that writes down how long its rounds take."""

    folder: Path

    def configure_train(self, server_round: int, *rest: Any) -> Any:
        self.begun = time.monotonic()
        return super().configure_train(server_round, *rest)

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        replies = list(replies)
        failed = sum(reply.has_error() for reply in replies)
        averaged = super().aggregate_train(server_round, replies)
        line = {"round": server_round, "seconds": time.monotonic() - self.begun, "failed": failed}
        with (self.folder / "rounds.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        return averaged


@server.main()
def main(grid: Grid, context: Context) -> None:
    """All rounds of training, none of evaluation."""
    config = context.run_config
    silos = int(config["silos"])
    rng = np.random.default_rng(0)  # equal tensors would travel once only: Flower stores by content
    arrays = ArrayRecord(
        {
            f"layer-{i:04d}": Array(rng.standard_normal(TENSOR_ELEMENTS, np.float32))
            for i in range(int(config["layers"]))
        }
    )
    strategy = Timed(fraction_evaluate=0.0, min_train_nodes=silos, min_available_nodes=silos)
    strategy.folder = Path(str(config["folder"]))
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=int(config["rounds"]))


@client.train()
def train(message: Message, context: Context) -> Message:
    """Sends the arrays back, one more: what the server has already would not travel."""
    config = context.run_config
    folder, node = Path(str(config["folder"])), int(context.node_config["partition-id"])
    if message.content["config"]["server-round"] == config["rounds"] and node < int(config["held"]):
        while not (folder / "go").exists():
            time.sleep(0.1)
    (folder / f"answered-{node}-{message.content['config']['server-round']}").touch()
    arrays = {name: Array(a.numpy() + np.float32(1 + node)) for name, a in message.content["arrays"].items()}
    content = {"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": 1})}
    return Message(content=RecordDict(content), reply_to=message)
