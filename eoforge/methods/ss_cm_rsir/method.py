"""The method object of SS-CM-RSIR: training and loading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from eoforge.bundle import Bundle
from eoforge.config import build_config
from eoforge.data.loading.loader import PatchBatch
from eoforge.data.loading.prepare import Prepare
from eoforge.errors import UsageError
from eoforge.hashing.packing import pack_torch
from eoforge.index.encoder import Encoder
from eoforge.methods import encoding
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
        self.prepare_s1 = self._prepare(config.s1_bands, normalisation)
        self.prepare_s2 = self._prepare(config.s2_bands, normalisation)

    def _prepare(self, bands: tuple[str, ...], normalisation: Normalisation) -> Prepare:
        mean, std = zip(*(normalisation[band] for band in bands), strict=True)
        return Prepare(bands, list(mean), list(std), size=self.config.size, interpolation=self.config.interpolation)

    def losses(self, batch: PatchBatch, epoch: int) -> dict[str, Tensor]:
        flip = random_flips(batch, self.config.seed, epoch) if self.config.flips else None
        outputs = self.network(self.prepare_s1(batch, flip), self.prepare_s2(batch, flip))
        return objective(outputs, epoch, self.config)

    def score(self, batches: Iterator[PatchBatch]) -> dict[str, float]:
        """Recall of the partner of the other sensor among the ten nearest codes, in both directions."""
        codes: dict[str, list[Tensor]] = {"s1": [], "s2": []}
        for batch in batches:
            for modality, prepare in (("s1", self.prepare_s1), ("s2", self.prepare_s2)):
                logits, _ = self.network.encode(prepare(batch), modality)
                codes[modality].append(pack_torch(logits).cpu())
        return code_recall({modality: torch.cat(parts) for modality, parts in codes.items()})


class SsCmRsirMethod:
    """See :class:`eoforge.methods.Method`."""

    name = "ss_cm_rsir"
    config_type: type[Any] = Config

    def config(self, preset: str, overrides: Mapping[str, str], file: str | None = None) -> Config:
        return build_config(Config, preset, overrides, file)

    def train(self, data: TableRef, out: str, config: Any, *, resume: bool = True) -> Bundle:
        if not isinstance(config, Config):
            raise UsageError(f"{self.name} trains with its own Config; got {type(config).__name__}")
        recipe = Recipe(
            method=self.name,
            bands=_bands(config),
            learner=lambda normalisation: _Learner(config, normalisation),
            network=lambda learner: cast("_Learner", learner).network,
            facts=lambda learner: _facts(config, cast("_Learner", learner).network),
            card=_CARD,
        )
        return train_run(recipe, data, out, config, resume=resume)

    def load(self, bundle: Bundle, device: str | None = None) -> Encoder:
        network, config = self._network(bundle, None)
        encoding.load_weights(network, bundle)
        return self._encoder(bundle, network, config, device)

    def untrained(self, bundle: Bundle, seed: int | None = None, device: str | None = None) -> Encoder:
        network, config = self._network(bundle, seed)
        return self._encoder(bundle, network, config, device)

    def _network(self, bundle: Bundle, seed: int | None) -> tuple[SsCmRsir, Config]:
        encoding.require_method(bundle, self.name)
        config = encoding.settings_of(bundle, Config, self.name)
        return seeded(lambda: SsCmRsir(config), config.seed if seed is None else seed), config

    def _encoder(self, bundle: Bundle, network: SsCmRsir, config: Config, device: str | None) -> Encoder:
        return encoding.hash_encoder(bundle, network, _bands(config), config.size, _facts(config, network), device)


def _bands(config: Config) -> dict[str, tuple[str, ...]]:
    return {"s1": config.s1_bands, "s2": config.s2_bands}


def _facts(config: Config, network: SsCmRsir) -> dict[str, Any]:
    return {"bits": config.bits, "embedding_dim": network.branch("s1").width, "interpolation": config.interpolation}


METHOD = SsCmRsirMethod()
