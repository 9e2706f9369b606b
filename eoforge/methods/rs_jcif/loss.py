"""The hash objective of RS-JCIF for codes of one or two sensors.

Shape legend: B patches of this rank, N of all ranks, K bits, C classes, S sensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from eoforge.data.labels import CLASSES
from eoforge.losses.contrastive import nt_xent
from eoforge.methods.rs_jcif.config import Config
from eoforge.methods.rs_jcif.pairwise import MemoryBank, soft_pairwise_to
from eoforge.metrics.multilabel import labels_of_masks
from kernels.hash_head import hash_head
from kernels.soft_pairwise import soft_pairwise


class Keys(NamedTuple):
    """Keys from which the target similarities of patches follow.

    Attributes:
        masks: int64 label masks ``[N]``.
        features: Unit features of the teacher ``[S, N, D]``, or None to use the masks.
    """

    masks: Tensor
    features: Tensor | None = None


def hash_terms(
    logits: Mapping[str, Tensor], classes_SNC: Tensor | None, keys: Keys, bank: MemoryBank | None, config: Config
) -> dict[str, Tensor]:
    """Terms of ``L_hash = L_pair + w_q L_q + w_b L_b + w_s L_s + w_c L_cls``, with the sum as ``hash``.

    Outputs are ``h = tanh(logits)``. The outputs of all sensors are rows of one pairwise loss, which makes codes
    comparable across sensors.

    Args:
        logits: Sensor -> ``[N, K]`` of the same N patches.
        classes_SNC: Class logits computed from the outputs, or None (label-free).
        keys: Targets of the pairwise loss.
        bank: Memory bank of earlier outputs, to which this batch is added, or None.
        config: Weights and kind of the targets.
    """
    sensors = list(logits.values())
    head = hash_head(sensors[0].float(), *(x.float() for x in sensors[1:]), reduction="mean")
    outputs_RK = torch.cat(head.codes)
    if config.similarity == "partner":
        pair = nt_xent(head.codes[0], head.codes[1], config.partner_temperature)
    else:
        pair = _pairwise(outputs_RK, keys, len(sensors), bank, config)
    terms = {
        "pair": pair,
        "quantisation": head.quantisation,
        "balance_bits": head.balance_bits,
        "balance_samples": head.balance_samples,
    }
    total = (
        config.pair_weight * pair
        + config.quantisation_weight * head.quantisation
        + config.bit_balance_weight * head.balance_bits
        + config.sample_balance_weight * head.balance_samples
    )
    if classes_SNC is not None:
        terms["classification"] = classification(classes_SNC, keys.masks)
        total = total + config.classification_weight * terms["classification"]
    return {"hash": total, **terms}


def classification(logits_SNC: Tensor, masks_N: Tensor) -> Tensor:
    """Binary cross entropy, mean over sensors, patches and classes."""
    labels_NC = labels_of_masks(masks_N, len(CLASSES))
    return functional.binary_cross_entropy_with_logits(logits_SNC.float(), labels_NC.expand_as(logits_SNC))


def _pairwise(outputs_RK: Tensor, keys: Keys, sensors: int, bank: MemoryBank | None, config: Config) -> Tensor:
    """Pairwise loss, mean over the pairs of this batch and of its rows with those of the bank."""
    keys_R = keys.masks.repeat(sensors) if keys.features is None else keys.features.flatten(0, 1)
    if keys.features is None:
        loss = soft_pairwise(outputs_RK, keys_R, form=config.pair_form)
    else:
        similarity = teacher_similarity(keys_R, keys_R)
        patches = len(keys_R) // sensors
        places = torch.arange(len(keys_R), device=keys_R.device)
        same = places[:, None] % patches == places[None, :] % patches
        similarity = similarity.masked_fill(same, 1.0)  # patches of the same place have similarity 1
        loss = soft_pairwise_to(outputs_RK, outputs_RK, similarity, config.pair_form)
    if bank is None:
        return loss
    held, held_keys = bank.rows()
    if len(held):
        if keys.features is None:
            beyond = soft_pairwise(outputs_RK, keys_R, held, held_keys, form=config.pair_form)
        else:
            beyond = soft_pairwise_to(outputs_RK, held, teacher_similarity(keys_R, held_keys), config.pair_form)
        loss = (len(keys_R) * loss + len(held) * beyond) / (len(keys_R) + len(held))
    bank.put(outputs_RK, keys_R)
    return loss


def teacher_similarity(first_RD: Tensor, second_ND: Tensor) -> Tensor:
    """Target similarities without labels (*ours*): ``max(0, cos)`` of self-supervised features, ``[R, N]``."""
    return (functional.normalize(first_RD, dim=1) @ functional.normalize(second_ND, dim=1).T).clamp(min=0)
