"""The method object of SS-CM-RSIR: training and loading."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from eoforge.bundle import Bundle
from eoforge.data.loading.loader import PatchBatch
from eoforge.data.loading.prepare import Prepare
from eoforge.hashing.packing import pack_torch
from eoforge.methods.base import HashMethod, facts_of
from eoforge.methods.learner import Learner
from eoforge.methods.pairs import code_recall, random_flips
from eoforge.methods.run import Normalisation, Recipe, train_run
from eoforge.methods.ss_cm_rsir.config import Config
from eoforge.methods.ss_cm_rsir.loss import objective
from eoforge.methods.ss_cm_rsir.model import SsCmRsir
from eoforge.nn.build import seeded
from eoforge.storage.addresses import TableRef

_CARD = (
    "Cross-modal retrieval between Sentinel-1 and Sentinel-2 patches by binary codes, trained without labels on pairs "
    "of the same place (SS-CM-RSIR). One encoder per sensor; patches of either sensor are found by the Hamming "
    "distance of their codes."
)


class _Learner(Learner):
    """Training of the network."""

    def __init__(self, config: Config, normalisation: Normalisation) -> None:
        super().__init__()
        self.config = config
        self.network = seeded(lambda: SsCmRsir(config), config.seed)
        self.prepare = nn.ModuleDict(
            {
                modality: Prepare.of(bands, normalisation, config.size, config.interpolation)
                for modality, bands in config.sensor_bands.items()
            }
        )

    def losses(self, batch: PatchBatch, epoch: int) -> dict[str, Tensor]:
        flip = random_flips(batch, self.config.seed, epoch) if self.config.flips else None
        outputs = self.network(*(prepare(batch, flip) for prepare in self.prepare.values()))
        return objective(outputs, epoch, self.config)

    def score(self, batches: Iterator[PatchBatch]) -> dict[str, float]:
        """Recall of the partner of the other sensor among the ten nearest codes, in both directions."""
        codes: dict[str, list[Tensor]] = {"s1": [], "s2": []}
        for batch in batches:
            for modality, prepare in self.prepare.items():
                logits, _ = self.network.encode(prepare(batch), modality)
                codes[modality].append(pack_torch(logits).cpu())
        return code_recall({modality: torch.cat(parts) for modality, parts in codes.items()})


class SsCmRsirMethod(HashMethod):
    """See :class:`eoforge.methods.Method`."""

    name = "ss_cm_rsir"
    config_type = Config

    def train(self, data: TableRef, out: str, config: Any, *, resume: bool = True) -> Bundle:
        self.require_own(config)
        recipe = Recipe(
            method=self.name,
            bands=config.sensor_bands,
            learner=lambda normalisation: _Learner(config, normalisation),
            network=lambda learner: cast("_Learner", learner).network,
            facts=lambda learner: facts_of(config, cast("_Learner", learner).network),
            card=_CARD,
        )
        return train_run(recipe, data, out, config, resume=resume)

    def build(self, config: Config) -> SsCmRsir:
        return seeded(lambda: SsCmRsir(config), config.seed)


METHOD = SsCmRsirMethod()
