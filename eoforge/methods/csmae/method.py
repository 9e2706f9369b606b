"""The method object of CSMAE: pre-training, training of hash heads, loading."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import Tensor, nn

from eoforge.bundle import Bundle, training_patches
from eoforge.data.bands import MODALITIES
from eoforge.data.loading.loader import PatchBatch
from eoforge.data.loading.prepare import Prepare
from eoforge.methods.base import HashMethod, facts_of
from eoforge.methods.csmae.config import Config, Pretraining
from eoforge.methods.csmae.heads import CsmaeHash, HashLearner, NameLoader
from eoforge.methods.csmae.importer import load_released
from eoforge.methods.csmae.loss import objective
from eoforge.methods.csmae.masking import draw_masks
from eoforge.methods.csmae.model import Csmae
from eoforge.methods.csmae.pixels import NativeGrids, Pixels
from eoforge.methods.csmae.step import RecordedObjective, compile_blocks
from eoforge.methods.learner import Learner
from eoforge.methods.pairs import feature_recall, random_flips
from eoforge.methods.run import Normalisation, Recipe, require_patches, train_run
from eoforge.nn.build import seeded
from eoforge.nn.distributed import World
from eoforge.storage.addresses import TableRef, join
from kernels.random_mask import mask_state

PRETRAINING = "csmae-pretraining"
_CARD = (
    "Cross-modal retrieval between Sentinel-1 and Sentinel-2 patches by binary codes. The encoder is a cross-sensor "
    "masked autoencoder (CSMAE), trained without labels on pairs of the same place; hash heads learned on its frozen "
    "features. The figures below are the heads'; `pretraining` in `config.json` names the bundle of the encoder."
)
_PRETRAINING_CARD = (
    "A cross-sensor masked autoencoder (CSMAE), encoder and decoders, before its hash heads: a stage of a `csmae` run."
)


class PretrainingLearner(Learner):
    """Pre-training of the autoencoder."""

    def __init__(self, config: Pretraining, normalisation: Normalisation) -> None:
        super().__init__()
        self.config = config
        self.network = seeded(lambda: Csmae(config), config.seed)
        if config.released:
            load_released(self.network, config.released)
        self.prepare = nn.ModuleDict(_prepares(config, normalisation))
        self._normalisation = normalisation
        self._grids: dict[str, NativeGrids] = {}
        self._recorded: RecordedObjective | None = None

    def losses(self, batch: PatchBatch, epoch: int) -> dict[str, Tensor]:
        flip = random_flips(batch, self.config.seed, epoch) if self.config.flips else None
        device = batch.label_mask.device
        # The trainer seeds torch's generator by (seed, epoch, batch, rank), which determine this draw.
        state = mask_state(int(torch.randint(2**62, ())), device=device)
        if device.type == "cuda" and self.config.sharing:
            return self._on_gpu(self._pixels(batch, flip), state)
        images = {modality: prepare(batch, flip) for modality, prepare in self.prepare.items()}
        return objective(self.network, images, draw_masks(state, len(batch), self.config))

    def _pixels(self, batch: PatchBatch, flip: Tensor | None) -> dict[str, Pixels]:
        """Native grids if the kernels can upsample to the input, else prepared images."""
        pixels = {}
        for modality, bands in self.config.sensor_bands.items():
            if NativeGrids.can(bands, self.config.size, self.config.interpolation):
                if modality not in self._grids:
                    mean, std = zip(*(self._normalisation[band] for band in bands), strict=True)
                    self._grids[modality] = NativeGrids.build(bands, mean, std, batch.label_mask.device)
                pixels[modality] = self._grids[modality].pixels(batch, flip)
            else:
                pixels[modality] = Pixels.of(self.prepare[modality](batch, flip))
        return pixels

    def _on_gpu(self, pixels: dict[str, Pixels], state: Tensor) -> dict[str, Tensor]:
        """The objective with compiled blocks; on a single GPU the step is also recorded as a CUDA graph."""
        if self._recorded is None:
            compile_blocks(self.network)
            self._recorded = RecordedObjective(self.network)
        if World.from_env().size > 1:  # a graph cannot gather features from other ranks
            pairs = pixels["s1"].sources[0].shape[0]
            return objective(self.network, pixels, draw_masks(state, pairs, self.config))
        return self._recorded(pixels, state)

    def score(self, batches: Iterator[PatchBatch]) -> dict[str, float]:
        """Recall of the partner of the other sensor among the ten nearest features."""
        parts: dict[str, list[Tensor]] = {modality: [] for modality in MODALITIES}
        for batch in batches:
            for modality, prepare in self.prepare.items():
                parts[modality].append(self.network.encoder.features(prepare(batch), modality))
        return feature_recall({modality: torch.cat(rows) for modality, rows in parts.items()})


def _prepares(config: Pretraining, normalisation: Normalisation) -> dict[str, Prepare]:
    return {
        modality: Prepare.of(bands, normalisation, config.size, config.interpolation)
        for modality, bands in config.sensor_bands.items()
    }


class CsmaeMethod(HashMethod):
    """See :class:`eoforge.methods.Method`."""

    name = "csmae"
    config_type = Config

    def train(self, data: TableRef, out: str, config: Any, *, resume: bool = True) -> Bundle:
        self.require_own(config)
        data = data.pinned()
        require_patches(data, config.pretraining(), config.heads(""))
        pretrained = self.pretrain(data, out, config, resume=resume)
        table = training_patches(pretrained)
        recipe = Recipe(
            method=self.name,
            bands=config.sensor_bands,
            learner=lambda normalisation: self._hash_learner(pretrained, table, config, normalisation),
            network=_network_of,
            # The bundle keeps the user's config; the stage's config is internal.
            facts=lambda learner: {
                "config": asdict(config),
                **facts_of(config, _network_of(learner)),
                "pretraining": pretrained.id,
            },
            card=_CARD,
            training_loader=NameLoader,
        )
        return train_run(recipe, table, out, config.heads(pretrained.id), resume=resume)

    def pretrain(self, data: TableRef, out: str, config: Config, *, resume: bool = True) -> Bundle:
        """The bundle of the first stage, encoder and decoders, below ``out/pretraining``.

        Runs whose configs differ only in their hash heads share this bundle.
        """
        first = config.pretraining()
        recipe = Recipe(
            method=PRETRAINING,
            bands=first.sensor_bands,
            learner=lambda normalisation: PretrainingLearner(first, normalisation),
            network=lambda learner: cast("PretrainingLearner", learner).network,
            facts=lambda _: {"bits": 0, "embedding_dim": first.width, "interpolation": first.interpolation},
            card=_PRETRAINING_CARD,
        )
        return train_run(recipe, data, join(out, "pretraining"), first, resume=resume)

    def _hash_learner(
        self, pretrained: Bundle, table: TableRef, config: Config, normalisation: Normalisation
    ) -> HashLearner:
        network = self.build(config)
        weights = {k.removeprefix("encoder."): v for k, v in pretrained.weights().items() if k.startswith("encoder.")}
        network.encoder.load_state_dict(weights)
        return HashLearner(network, _prepares(config, normalisation), table, config)

    def build(self, config: Config) -> CsmaeHash:
        return seeded(lambda: CsmaeHash(config), config.seed)


def _network_of(learner: Learner) -> CsmaeHash:
    return cast("HashLearner", learner).network


METHOD = CsmaeMethod()
