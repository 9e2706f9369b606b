"""Registry of strategies: names, and imports without torch as the coordinator makes them."""

from __future__ import annotations

import subprocess
import sys

from eoforge.federated.strategies.registry import STRATEGIES, make_strategy

SERVER_HALF = """
import sys
from eoforge.federated.strategies.registry import STRATEGIES, make_strategy
from eoforge.federated.strategy import SiloInfo
from eoforge.storage.tensorfile import TensorSpec

model = {"heads.shared.weight": TensorSpec((2, 2), "float32", "norm")}
silos = [SiloInfo("a", 10, "s1"), SiloInfo("b", 10, "s2")]
for name in STRATEGIES:
    strategy = make_strategy(name)
    strategy.start(model, silos)
loaded = sorted(m for m in sys.modules if m.split(".")[0] in ("torch", "timm", "torchvision"))
print(len(STRATEGIES), loaded[:3])
"""


def test_the_server_half_of_every_strategy_runs_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", SERVER_HALF], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{len(STRATEGIES)} []"


def test_every_strategy_has_the_name_it_is_registered_under() -> None:
    assert {name: make_strategy(name).name for name in STRATEGIES} == {name: name for name in STRATEGIES}
