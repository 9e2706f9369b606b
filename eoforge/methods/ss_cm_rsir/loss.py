"""The objective of SS-CM-RSIR, and the hash objective added to it."""

from __future__ import annotations

import math

from torch import Tensor

from eoforge.losses.contrastive import intra_modal_similarity, modal_discrepancy, nt_xent
from eoforge.losses.hash_objective import hash_objective
from eoforge.methods.ss_cm_rsir.config import Config
from eoforge.methods.ss_cm_rsir.model import Outputs


def ramp(epoch: int, epochs: int, start: float) -> float:
    """Weight of an epoch, ``exp(linspace(ln start, ln 1, epochs))[epoch]`` (*confirmed*: port)."""
    if epochs == 1:
        return 1.0
    return math.exp(math.log(start) * (1 - min(epoch, epochs - 1) / (epochs - 1)))


def objective(outputs: Outputs, epoch: int, config: Config) -> dict[str, Tensor]:
    """All terms of the loss by name; ``loss`` is the objective.

    ``L = L_MIM - beta L_MDE - alpha L_MSP + L_hash``. The authors' port adds alpha L_MSP, which separates
    neighbours, in contradiction to the abstract; ``port_sign`` selects that.

    Args:
        outputs: Outputs for the patches of all ranks.
        epoch: Number of the epoch from 0; alpha and beta depend on it.
        config: Weights and temperatures.
    """
    weight = ramp(epoch, config.epochs, config.ramp_start)
    inter_modal = nt_xent(*outputs.projections, config.temperature)
    discrepancy = modal_discrepancy(*outputs.features)
    similarity = intra_modal_similarity(*outputs.features)
    sign = 1.0 if config.port_sign else -1.0
    retrieval = (
        inter_modal
        - config.discrepancy_weight * weight * discrepancy
        + sign * config.similarity_weight * weight * similarity
    )
    hash_terms = hash_objective(outputs.hashes, config)
    return {
        "loss": retrieval + hash_terms["hash"],
        "inter_modal": inter_modal,
        "discrepancy": discrepancy,
        "similarity": similarity,
        **hash_terms,
    }
