"""Hash heads on the frozen encoder: the network for serving, and training of the heads on cached features.

DA4DTE, the authors' deployment, runs the frozen encoder again in every epoch (*confirmed*). The features do not change,
so here they are computed once, in the table's order, and the heads' epochs read no pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from eoforge.data.bands import MODALITIES
from eoforge.data.loading.batch import read_rows
from eoforge.data.loading.loader import PatchBatch, PatchFilter, PatchLoader
from eoforge.data.loading.prepare import Prepare
from eoforge.hashing.head import HashHead
from eoforge.hashing.packing import pack_torch
from eoforge.losses.hash_objective import hash_objective
from eoforge.methods.csmae.config import Config
from eoforge.methods.csmae.model import Encoder
from eoforge.methods.learner import Learner
from eoforge.methods.pairs import code_recall
from eoforge.nn.distributed import gather_rows
from eoforge.progress import track
from eoforge.storage.addresses import TableRef

FEATURE_BATCH = 256
MIN_SCALE = 1e-6


class Head(nn.Module):
    """Hash head of one sensor on features standardised by centre and scale of the training split."""

    centre: Tensor
    scale: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(config.width))
        self.register_buffer("scale", torch.ones(config.width))
        self.hash = HashHead(config.width, config.bits, config.hash_hidden)

    def standardise_by(self, features_ND: Tensor) -> None:
        """Sets centre and scale from the features of the training split."""
        self.centre.copy_(features_ND.mean(dim=0))
        self.scale.copy_(features_ND.std(dim=0, correction=0).clamp_min(MIN_SCALE))

    def logits(self, features_BD: Tensor) -> Tensor:
        """Hash logits ``[B, K]``; bit k of the code is ``logit_k > 0``."""
        logits_BK: Tensor = self.hash((features_BD - self.centre) / self.scale)
        return logits_BK


class CsmaeHash(nn.Module):
    """Encoder and one head per sensor, the network for indexing and retrieval."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.encoder, self.features = Encoder(config), config.width
        self.heads = nn.ModuleDict({modality: Head(config) for modality in MODALITIES})

    def head(self, modality: str) -> Head:
        """The head of ``s1`` or ``s2``."""
        head = self.heads[modality]
        assert isinstance(head, Head)
        return head

    def encode(self, image_BCSS: Tensor, modality: str) -> tuple[Tensor, Tensor]:
        """Hash logits ``[B, K]`` and unit embeddings ``[B, D]`` of one sensor."""
        features_BD = self.encoder.features(image_BCSS, modality)
        return self.head(modality).logits(features_BD), functional.normalize(features_BD, dim=1)


class NameLoader(PatchLoader):
    """A loader whose batches have names and labels only."""

    def _read(self, rows: npt.NDArray[np.int64]) -> PatchBatch:
        return read_rows(self._table.here, rows, (), reference_map=False)


class HashLearner(Learner):
    """Training of the heads of ``network`` on features of the training split.

    Args:
        network: Network with the pre-trained encoder.
        prepare: Sensor -> transform from stored pixels to the encoder's input.
        data: Patches table at a version.
        config: Settings.
    """

    def __init__(self, network: CsmaeHash, prepare: Mapping[str, Prepare], data: TableRef, config: Config) -> None:
        super().__init__()
        self.config, self.network = config, network
        self.prepare = nn.ModuleDict(prepare)
        network.encoder.requires_grad_(False)
        self._row, self._features = self._cached(data)
        self._validation: dict[str, Tensor] | None = None
        if config.standardise:
            for modality, features in self._features.items():
                network.head(modality).standardise_by(features)

    @torch.no_grad()
    def _features_of(self, batch: PatchBatch) -> dict[str, Tensor]:
        return {m: self.network.encoder.features(p(batch), m).float() for m, p in self.prepare.items()}

    def _cached(self, data: TableRef) -> tuple[dict[str, int], dict[str, Tensor]]:
        """Row of each patch of the training split, and both sensors' features ``[N, D]`` in main memory."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        loader = PatchLoader(data, batch_size=FEATURE_BATCH, filter=PatchFilter(splits=("train",)))
        names: list[str] = []
        parts: dict[str, list[Tensor]] = {modality: [] for modality in MODALITIES}
        home = next(self.parameters()).device
        self.to(device)
        with track("encoding the training split once", total=len(loader)) as progress:
            for batch in loader:
                names += batch.patch_id
                for modality, features in self._features_of(batch.to(device)).items():
                    parts[modality].append(features.cpu())
                progress.advance()
        self.to(home)
        return {name: row for row, name in enumerate(names)}, {m: torch.cat(p) for m, p in parts.items()}

    def losses(self, batch: PatchBatch, epoch: int) -> dict[str, Tensor]:
        rows = [self._row[name] for name in batch.patch_id]
        outputs = []
        for modality in MODALITIES:
            features = self._features[modality][rows].to(batch.label_mask.device)
            outputs.append(gather_rows(self.network.head(modality).logits(features)))
        terms = hash_objective((outputs[0], outputs[1]), self.config)
        return {"loss": terms.pop("hash"), **terms}

    def score(self, batches: Iterator[PatchBatch]) -> dict[str, float]:
        """Recall of the partner of the other sensor among the ten nearest codes."""
        if self._validation is None:  # the encoder is frozen, so later epochs do not read the batches
            parts = [self._features_of(batch) for batch in batches]
            self._validation = {m: torch.cat([part[m] for part in parts]) for m in MODALITIES}
        return code_recall({m: pack_torch(self.network.head(m).logits(f)) for m, f in self._validation.items()})
