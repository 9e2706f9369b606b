"""The model of RS-JCIF: the codec of ``eoforge.codec``, whose latent is stored, searched and decoded.

Shape legend: B patches, M latent channels, h x w latent grid, K bits, q quality. Per sensor::

                    compression: R + lambda(q) D             hashing: pair + quantisation + balance + classes
                                   ^                                            ^
                                   |                                            |
    grids --> g_a --> y [B,M,h,w] -x gain(q)-> round --> y_hat --+--> hash module --> logits [B,K] --> code (logit > 0)
              ^shared              ^shared       |               |    (hash task alone)
              |                                  '- h_a, h_s     '--> g_s --> decoded grids
              |                                  (compression alone)  (compression alone)
              '---- g = a g1 + b g2, by the rule in ``gradients``: pcgrad, mgda, sum, fixed

    archive:  pixels --compress--> stream (payload + code) --.
    queries:  (a) stream --decompress--> pixels --encode--> code     conventional
              (b) stream --entropy decoding--> y_hat --> code        without synthesis
              (c) stream --header--> code                            without decoding

Each sensor has its own transforms, entropy model and hash module; the pairwise loss, in which codes of both are rows of
one matrix, couples them. Only g_a and the gains have gradients of both tasks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from eoforge.codec.learned.exact import ONE
from eoforge.codec.learned.model import Codec
from eoforge.codec.learned.pieces import fraction_of, require_ready
from eoforge.data.loading.batch import PatchBatch
from eoforge.errors import UsageError
from eoforge.geo.footprint import PATCH_METRES
from eoforge.hashing.packing import pack_torch
from eoforge.methods.encoding import require_rasters

_SIDE = PATCH_METRES // 10


class LatentEncoder:
    """Encoder of codes and embeddings from the quantised latent; see :class:`eoforge.index.encoder.Encoder`.

    The code equals that in a stream of the same patch at the same quality: logits come from the exact integer path. The
    embedding is ``tanh`` of the logits at length 1; its cosine similarity shows the loss by binarisation.

    Args:
        codec: Trained codec in evaluation mode, with its integer tables.
        quality: Quality step of the quantisation.
        device: Device of the codec.
    """

    def __init__(self, codec: Codec, quality: float, device: torch.device) -> None:
        self.codec, self.quality, self.device = codec, quality, device
        self.bits = self.embedding_dim = codec.config.bits
        self.modalities = tuple(codec.config.bands)

    @torch.inference_mode()
    def encode(self, batch: PatchBatch, modality: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Codes ``[B, K/8]`` and embeddings ``[B, K]``.

        Raises:
            UsageError: ``modality`` is none of ``modalities``.
            DataRefused: The batch lacks the modality's bands, or they have another shape or type.
        """
        if modality not in self.modalities:
            raise UsageError(f"this model encodes {', '.join(self.modalities)}; got modality {modality!r}")
        bands = self.codec.config.bands[modality]
        require_rasters(batch, bands)
        branch = require_ready(self.codec, modality, bands)
        grids = self.codec.grids(batch.to(self.device), modality)
        y = branch.latent(branch.pack(grids, (_SIDE, _SIDE)))
        logits = branch.exact_logits(branch.quantise(y, fraction_of(self.quality)).y_hat)
        return pack_torch(logits).cpu().numpy(), self._embedding(logits).cpu().numpy()

    @staticmethod
    def _embedding(logits_BK: Tensor) -> Tensor:
        return functional.normalize((logits_BK.double() / ONE).tanh().float(), dim=1)
